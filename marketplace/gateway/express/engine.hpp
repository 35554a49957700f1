// Engines: kept connections and what travels on them, by the rules of marketplace/gateway/wire.py.
#pragma once
#include <string>
#include <vector>

#include "http.hpp"
#include "poller.hpp"
#include "wire.hpp"

namespace express::net {

class Carrier;
class EnginePool;

// One request on its way; freed at the end of the round in which its reader has heard the end.
class Journey final : public Flight, public Mortal {
 public:
  Journey(EnginePool& pool, std::string request, bool push, Reader* reader);

  bool sent() const override { return sent_; }
  void cut_off() override;
  void pause() override;
  void resume() override;

 private:
  friend class Carrier;
  friend class EnginePool;
  void over();

  EnginePool& pool_;
  std::string request_;
  bool push_, sent_ = false, paused_ = false, over_ = false;
  bool again_ = false;  // whether it may be sent once more: it went down a kept connection
  Reader* reader_;
  Carrier* carrier_ = nullptr;
  std::size_t place_;  // among those of its engine
};

// One connection; one request at a time.
class Carrier final : public Watched {
 public:
  Carrier(EnginePool& pool, int fd, Journey& journey);  // while it is being connected

  void ready(std::uint32_t events) override;
  void patience(double now_s) override;

 private:
  friend class EnginePool;
  friend class Journey;
  void connected(std::uint32_t events);
  void carry(Journey& journey);
  void send_on();
  void read();
  void go_on(AnswerReader::State state);
  void landed();
  void fail(Failure failure);
  void close();  // forgets the journey
  void interest();

  EnginePool& pool_;
  Journey* journey_;
  bool connecting_ = true, ended_ = false, full_ = false;
  std::size_t sent_ = 0;  // bytes of the request
  double heard_at_;
  AnswerReader reader_;
};

class EnginePool final : public Engine {
 public:
  EnginePool(Poller& poller, const sockaddr_storage& address, socklen_t length, const Wire::Settings& settings)
      : poller_(poller), address_(address), length_(length), settings_(settings) {}

  Flight* send(std::string request, bool push, Reader* reader) override;
  void forsake();  // cuts off all that is on its way
  bool is_at(const sockaddr_storage& address, socklen_t length) const;
  bool at_rest() const { return journeys_.empty() && idle_.empty(); }  // nothing is on its way, and nothing kept

 private:
  friend class Carrier;
  friend class Journey;
  void connect(Journey& journey);
  void fail(Journey& journey, Failure failure);
  Carrier* kept();
  void keep(Carrier& carrier);
  void forget(Carrier& carrier);

  Poller& poller_;
  sockaddr_storage address_;
  socklen_t length_;
  const Wire::Settings& settings_;
  std::vector<Journey*> journeys_;
  std::vector<Carrier*> idle_;  // the one used last stands last
};

}  // namespace express::net

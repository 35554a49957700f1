#include "echo_lane.hpp"

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <arpa/inet.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <set>

#include "names.hpp"

namespace express {

namespace {

class Echo;

const char* word(Failure failure) {
  switch (failure) {
    case Failure::unreachable:
      return "unreachable";
    case Failure::silent:
      return "silent";
    case Failure::broken:
      break;
  }
  return "broken";
}

std::string decimal(std::size_t number) { return std::to_string(number); }

std::string chunk(View bytes) {
  char size[24];
  std::snprintf(size, sizeof size, "%zx\r\n", bytes.size());
  return std::string(size).append(bytes).append("\r\n");
}

// A request that is being forwarded.
struct Call : Reader {
  Call(Echo& echo, Client& client) : echo(echo), client(&client) {}
  void piece(View bytes) override;
  void landed(Answer&& answer) override;
  void broke(Failure failure) override;

  Echo& echo;
  Client* client;
  Flight* flight = nullptr;
  bool begun = false;
};

// A request that the test itself sends.
struct Trip : Reader {
  Trip(Echo& echo, long number) : echo(echo), number(number) {}
  void piece(View bytes) override;
  void landed(Answer&& answer) override;
  void broke(Failure failure) override;

  Echo& echo;
  long number;
  Flight* flight = nullptr;
};

class Echo final : public Express {
 public:
  ~Echo() override {
    for (Call* call : calls) delete call;
    for (auto& [number, trip] : trips) delete trip;
  }

  void wired(Wire& wire) override { wire_ = &wire; }

  bool takes(Client& client, const Head& head, View body) override {
    if (mode_ == "decline") return false;
    auth_.assign(head.authorization);
    if (mode_ == "mirror") {
      std::string answer = "HTTP/1.1 200 OK\r\nx-path: /v1/chat/completions\r\n";
      if (client.closing()) answer += "connection: close\r\n";
      answer.append("content-length: ").append(decimal(body.size())).append("\r\n\r\n").append(body);
      ++mirrored_;
      client.write(answer);
      client.done();
      return true;
    }
    auto* call = new Call(*this, client);
    calls.insert(call);
    client.call = call;
    if (gives_up("taken")) {
      give_up(*call);
      return true;
    }
    if (gives_up("later")) return true;
    if (engine_ == nullptr) return true;  // nothing comes of it until the client leaves
    std::string request = "POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: ";
    request.append(decimal(body.size())).append("\r\n\r\n").append(body);
    call->flight = engine_->send(std::move(request), body.find("\"stream\":true") != View::npos, call);
    return true;
  }

  void left(Client& client) override {
    auto* call = static_cast<Call*>(client.call);
    tell(Py_BuildValue("(s)", "left"));
    if (call->flight != nullptr) call->flight->cut_off();
    if (gives_up("left")) {
      give_up(*call);
    } else {
      client.done();
      drop(call);
    }
  }

  void slow(Client& client, bool slow) override {
    tell(Py_BuildValue("(sO)", "slow", slow ? Py_True : Py_False));
    auto* call = static_cast<Call*>(client.call);
    if (call == nullptr || call->flight == nullptr) return;
    if (slow) {
      call->flight->pause();
    } else {
      call->flight->resume();
    }
  }

  void tick(double) override {
    if (!gives_up("later")) return;
    while (!calls.empty()) give_up(**calls.begin());
  }

  PyObject* asked(const char* what, PyObject* arguments) override {
    const View word(what);
    if (word == "engine") return set_engine(arguments);
    if (word == "mode") return set(mode_, arguments);
    if (word == "resumed") {
      resumed_ = Ref::share(PyTuple_GetItem(arguments, 0));
      Py_RETURN_NONE;
    }
    if (word == "send") return send(arguments);
    if (word == "told") {
      if (mirrored_ > 0) tell(Py_BuildValue("(sn)", "mirrored", static_cast<Py_ssize_t>(std::exchange(mirrored_, 0))));
      if (!told_) told_ = Ref(PyList_New(0));
      return std::exchange(told_, Ref()).release();
    }
    if (word == "authorization") return express::bytes(auth_).release();
    return steer(word, arguments);
  }

  bool gives_up(View when) const { return mode_.size() > 8 && View(mode_).substr(8) == when; }

  void give_up(Call& call) {
    Client* client = call.client;
    Flight* flight = call.flight;
    drop(&call);
    if (flight != nullptr) flight->cut_off();
    client->give_up(resumed_ ? resumed_.get() : Py_None);
  }

  void drop(Call* call) {
    calls.erase(call);
    delete call;
  }

  void tell(PyObject* what) {
    const Ref owned = Ref(what);
    if (!told_) told_ = Ref(PyList_New(0));
    if (!owned || PyList_Append(told_.get(), owned.get()) < 0) PyErr_WriteUnraisable(nullptr);
  }

  std::map<long, Trip*> trips;
  std::set<Call*> calls;

 private:
  PyObject* set_engine(PyObject* arguments) {
    const char* host;
    int port;
    if (!PyArg_ParseTuple(arguments, "si", &host, &port)) return nullptr;
    sockaddr_storage address{};
    auto* v4 = reinterpret_cast<sockaddr_in*>(&address);
    v4->sin_family = AF_INET;
    v4->sin_port = htons(static_cast<std::uint16_t>(port));
    inet_pton(AF_INET, host, &v4->sin_addr);
    engine_ = wire_->engine(address, sizeof *v4);
    Py_RETURN_NONE;
  }

  static PyObject* set(std::string& what, PyObject* arguments) {
    const char* value;
    if (!PyArg_ParseTuple(arguments, "s", &value)) return nullptr;
    what = value;
    Py_RETURN_NONE;
  }

  PyObject* send(PyObject* arguments) {
    const char* request;
    Py_ssize_t size;
    int push;
    if (!PyArg_ParseTuple(arguments, "y#p", &request, &size, &push)) return nullptr;
    auto* trip = new Trip(*this, ++last_);
    trips[trip->number] = trip;
    trip->flight = engine_->send(std::string(request, static_cast<std::size_t>(size)), push != 0, trip);
    return PyLong_FromLong(trip->number);
  }

  PyObject* steer(View what, PyObject* arguments) {
    long number;
    if (!PyArg_ParseTuple(arguments, "l", &number)) return nullptr;
    const auto found = trips.find(number);
    if (found == trips.end()) Py_RETURN_NONE;
    Trip* trip = found->second;
    if (what == "sent") return PyBool_FromLong(trip->flight->sent());
    if (what == "pause") trip->flight->pause();
    if (what == "resume") trip->flight->resume();
    if (what == "cut_off") {
      trip->flight->cut_off();
      trips.erase(found);
      delete trip;
    }
    Py_RETURN_NONE;
  }

  Wire* wire_ = nullptr;
  std::shared_ptr<Engine> engine_;
  std::string mode_ = "decline", auth_;
  Ref resumed_, told_;
  long last_ = 0;
  std::size_t mirrored_ = 0;
};

void Call::piece(View bytes) {
  if (echo.gives_up("piece")) {
    echo.give_up(*this);
    return;
  }
  std::string out;
  if (!begun) out = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
  begun = true;
  client->write(out.append(chunk(bytes)));
}

void Call::landed(Answer&& answer) {
  flight = nullptr;
  if (echo.gives_up("landed")) {
    echo.give_up(*this);
    return;
  }
  Client* to = client;
  Echo& by = echo;
  const bool streamed = begun;
  by.drop(this);
  if (streamed) {
    to->write("0\r\n\r\n");
  } else {
    std::string out = "HTTP/1.1 " + std::to_string(answer.status) + " OK\r\ncontent-length: ";
    if (to->closing()) out.insert(out.rfind('\n', out.size() - 18) + 1, "connection: close\r\n");
    to->write(out.append(decimal(answer.body.size())).append("\r\n\r\n").append(answer.body));
  }
  to->done();
}

void Call::broke(Failure failure) {
  flight = nullptr;
  echo.tell(Py_BuildValue("(ss)", "broke", word(failure)));
  if (echo.gives_up("broke")) {
    echo.give_up(*this);
    return;
  }
  Client* to = client;
  echo.drop(this);
  to->write("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n");
  to->done();
}

void Trip::piece(View bytes) {
  echo.tell(Py_BuildValue("(lsy#)", number, "piece", bytes.data(), static_cast<Py_ssize_t>(bytes.size())));
}

void Trip::landed(Answer&& answer) {
  const Ref headers = Ref(PyDict_New());
  for (const auto& [name, value] : answer.headers) {
    const Ref key = express::bytes(name), told = express::bytes(value);
    PyDict_SetItem(headers.get(), key.get(), told.get());
  }
  echo.tell(Py_BuildValue("(lsiOy#)", number, "landed", answer.status, headers.get(), answer.body.data(),
                          static_cast<Py_ssize_t>(answer.body.size())));
  echo.trips.erase(number);
  delete this;
}

void Trip::broke(Failure failure) {
  echo.tell(Py_BuildValue("(lss)", number, "broke", word(failure)));
  echo.trips.erase(number);
  delete this;
}

}  // namespace

std::unique_ptr<Express> make_echo() { return std::make_unique<Echo>(); }

}  // namespace express

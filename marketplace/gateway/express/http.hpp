// HTTP/1.1 as the lane speaks it: heads of plain requests from clients, whole answers of engines.
//
// Both are stricter than RFC 9112 asks. A request that is not plain loses nothing, because Python serves it; an
// answer that is nonsense is an engine's fault. What is accepted means the same to httptools (llhttp), byte for
// byte: tests/marketplace/gateway/express/test_http.py holds the two together.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "text.hpp"
#include "wire.hpp"

namespace express::net {

constexpr std::size_t kLargestPlainHead = 16 * 1024;
constexpr std::size_t kMostAround = 256 * 1024;               // wire.py, _MOST_AROUND
constexpr std::size_t kLargestBody = 256 * 1024 * 1024;       // flight.py, LARGEST_BODY

enum class Plain { no, unclear, yes };

// Whether `bytes`, the first of a request, begin as every plain request does.
Plain begins_plainly(View bytes);

// The size of the head that `bytes` begin with, its blank line included; 0 where it has not come yet. Nothing
// ends before `from`: what was looked through before is not looked through again.
std::size_t size_of_head(View bytes, std::size_t from);

struct PlainHead {
  View authorization;           // a part of the head that was read
  std::uint64_t length = 0;     // of the body
};

// Reads a whole head; false when it is not plain.
bool read_plain(View head, PlainHead& plain);

// Reads one answer after another, in whatever pieces they come.
class AnswerReader {
 public:
  enum class State { more, done, broken };

  void begin(bool push);              // expect an answer; the body of a 200 is pushed on, where asked for
  // Reads on. `bytes` are written to: what they hold of a body that is pushed on is moved together.
  State feed(char* bytes, std::size_t size);
  State end();                        // the engine has closed the connection, in good order

  View piece() const { return {piece_, piece_size_}; }  // what the last `feed` had of a body that is pushed on
  std::size_t rest() const { return rest_; }            // bytes of the last `feed` that came behind the answer
  bool reached() const { return reached_; }             // whether anything has come
  bool keeps() const;                                   // whether the connection may carry another request
  Answer answer;

 private:
  enum class Part { start, headers, length, until_end, chunk_size, chunk, chunk_end, trailers };

  State lines(const char*& at, const char* end);
  bool begins_right() const;
  State line(View line);
  State status_line(View line);
  bool header(View line, bool trailer);
  bool transfer_encoding(View value);
  void connection(View value);
  State head_ended();
  bool chunk_size(View line);
  State body(char*& at, const char* end);

  Part part_ = Part::start;
  bool push_wanted_ = false, push_ = false, reached_ = false;
  bool has_length_ = false, encoded_ = false, chunked_ = false;
  bool one_one_ = false, close_ = false, keep_ = false;
  std::uint64_t left_ = 0;      // of the body, or of this chunk
  std::size_t around_ = 0;      // bytes in a row that were no body
  std::string line_;            // the beginning of a line whose end has not come
  char* piece_ = nullptr;
  std::size_t piece_size_ = 0, rest_ = 0;
};

}  // namespace express::net

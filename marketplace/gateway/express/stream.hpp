// Server-sent events of chat chunks: `marketplace.gateway.sse.StreamReader`, for the express lane.
#pragma once
#include <cstdint>
#include <string>

#include "text.hpp"

namespace express {

class StreamReader {
 public:
  // Appends to `forward` what the client may see now, byte for byte as Python's reader would return it for the
  // same pieces. False when the stream has failed (`StreamReader.failed`, or it raised): what came is in
  // `tail`, and Python says what to make of it.
  bool feed(View piece, std::string& forward);

  bool done() const { return done_; }
  // The newest event that carried usage ('' when none has), and the usage chunk (no choices), '' without one.
  const std::string& usage() const { return usage_; }
  const std::string& usage_chunk() const { return usage_chunk_; }

  // What Python's reader has to be fed to stand where this one stands (apart from its count of events): all
  // that came while no usage has been seen, and from then on the usage events that count and what is not yet a
  // whole event.
  std::string tail() const;

 private:
  bool event(View event, std::string& forward);
  std::string edge_;         // what is not yet a whole event
  std::string kept_;         // whole events since the beginning, while there has been no usage
  std::string usage_, usage_chunk_;
  bool done_ = false;
  // More as it needs them.
};

}  // namespace express

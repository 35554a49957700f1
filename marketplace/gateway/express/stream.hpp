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
  // `tail`, and Python says what to make of it. What stood before an error in the same piece is forwarded also
  // then; where Python's reader raises, nothing of the piece is.
  bool feed(View piece, std::string& forward);

  bool done() const { return done_; }
  // The newest event that carried usage ('' when none has), and the usage chunk (no choices), '' without one.
  const std::string& usage() const { return usage_; }
  const std::string& usage_chunk() const { return usage_chunk_; }

  // What Python's reader has to be fed to stand where this one stands (apart from its count of events): all
  // that came while no usage has been seen, and from then on the usage events that count and what is not yet a
  // whole event. It fails or raises on it where this one has failed.
  std::string tail() const;

 private:
  enum class Raised { not_yet, endless, too_much };

  bool cut(View piece, std::string& forward);  // false where Python's reader raises
  bool event(View event, std::string& forward);
  bool any(View event, std::string& forward);
  bool single(View event, std::string& forward);
  bool counted(View event, View forwarded, View end, std::string& forward);
  bool keep(View event);

  // What is not yet a whole event: all of it but its end (`Events._held`), and its end, in which half of the
  // empty line may stand already (`Events._edge`).
  std::string held_, edge_;
  std::string kept_;         // the events since the beginning, as a tail, while there has been no usage
  std::string usage_, usage_chunk_;
  std::string failed_;       // the newest event that told an error
  std::uint64_t made_size_ = 0;
  bool done_ = false;
  Raised raised_ = Raised::not_yet;
};

}  // namespace express

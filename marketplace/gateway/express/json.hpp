// JSON texts (RFC 8259), walked over without being kept: where values stand, and whether it is JSON at all.
#pragma once
#include "text.hpp"

namespace express {

// Whether Python would decode it: nothing overlong, no surrogates, nothing beyond U+10FFFF.
bool is_utf8(View bytes);
bool is_utf8_portable(View bytes);  // the same without the processor's wide instructions, for the tests

// A string as it is written, without its quotes.
struct Text {
  View bytes;
  bool escaped = false;  // a backslash stands in it
  bool spelled = false;  // an escape from \u0040 to \u007f: a letter or a sign of ASCII that needs none
};

// Walks over one text from the front. What is false has found no JSON, or more than was allowed; the walk is
// over then. Whether strings are UTF-8 is not looked at: `is_utf8` does it for a whole text at once.
class Cursor {
 public:
  enum class Numbers {
    any,
    ordinary,  // only those that every reader reads alike: integers of 64 bits, no exponents of three digits
  };

  // `depth`: how many lists and objects may stand inside each other.
  Cursor(View text, int depth, Numbers numbers)
      : at_(text.data()), end_(text.data() + text.size()), depth_(depth), numbers_(numbers) {}

  // The first byte of what comes, behind white space; '\0' at the end.
  char next() {
    while (at_ != end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\r' || *at_ == '\t')) ++at_;
    return at_ == end_ ? '\0' : *at_;
  }
  const char* at() const { return at_; }
  bool ended() { return next() == '\0' && at_ == end_; }

  bool string(Text& text);  // only where `next` is '"'
  bool scalar();            // a number, true, false or null
  bool skip();              // any value

  // Only where `next` is '{'. Calls `member(name)` behind each colon; it has to walk over the value.
  template <class Member>
  bool object(Member&& member) {
    if (!enter()) return false;
    if (next() == '}') return leave();
    for (;;) {
      Text name;
      if (next() != '"' || !string(name) || next() != ':') return false;
      ++at_;
      if (!member(name)) return false;
      const char behind = next();
      if (behind == '}') return leave();
      if (behind != ',') return false;
      ++at_;
    }
  }

  // Only where `next` is '['. Calls `item()` before each item; it has to walk over it.
  template <class Item>
  bool array(Item&& item) {
    if (!enter()) return false;
    if (next() == ']') return leave();
    for (;;) {
      if (!item()) return false;
      const char behind = next();
      if (behind == ']') return leave();
      if (behind != ',') return false;
      ++at_;
    }
  }

 private:
  bool enter() {
    ++at_;
    return --depth_ >= 0;
  }
  bool leave() {
    ++at_;
    ++depth_;
    return true;
  }
  bool word(View expected);
  bool number();
  bool escape(Text& text);
  bool code_unit(unsigned& unit);  // the four digits of \uXXXX

  const char* at_;
  const char* const end_;
  int depth_;
  const Numbers numbers_;
};

// What a string means, its escapes undone. `text` comes from a `Cursor`.
std::string unescaped(const Text& text);

}  // namespace express

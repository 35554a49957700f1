// A lane for the tests of the wire: it takes requests, forwards them to one engine, and knows no money.
#pragma once
#include <memory>

#include "lane.hpp"

namespace express {

// What it may be asked (`Core.lane(what, *arguments)`):
//   engine host port      where requests are forwarded to and `send` sends
//   mode how              decline | mirror | forward | give_up <when>, with when one of
//                         taken (inside `takes`), later (at the next tick), piece, landed, broke, left
//   resumed object        what a request that is given up gets as `protocol.resumed`
//   send request push     -> the number of a flight of the test's own; what it hears is told
//   pause | resume | cut_off | sent  number
//   told                  -> what has happened since the last question, as tuples
std::unique_ptr<Express> make_echo();

}  // namespace express

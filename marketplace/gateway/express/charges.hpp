// Charges beside the reserves, booked in batches: the ledger's journal for the one operation that the express
// lane has (`marketplace.ledger.operations.Charge` without reholds), on SQLite, in a lane and thread of its own.
//
// What is written is what `marketplace.ledger.journal` and `dialect_sqlite` write for the same charges, row for
// row and link for link of the chain; `tokenmart ledger verify` knows no difference.
#pragma once
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "pay.hpp"

namespace express {

struct Charge {
  std::string tx;
  std::vector<Leg> legs;
  std::vector<Entry> entries;
  std::vector<Value> usage;  // the columns of `usage_event` but lane and seq
  i64 at_us = 0;
  void* whose = nullptr;  // for whoever sent it
};

// booked: it is durable (also when an earlier try had booked it: the event under its id is the same in all
// columns). refused: the accounts have too little beside their holds, nothing was booked. unsure: the database
// failed, or this writer cannot say what is wrong with the charge; Python's writer is to try again. Of an unsure
// charge nothing has been booked, unless the log could not be synced after its COMMIT.
enum class Outcome { booked, refused, unsure };

using Answered = std::pair<std::unique_ptr<Charge>, Outcome>;

class ChargeWriter {
 public:
  // Opens the database (a file's path) with the SQLite library that this process has loaded already, so that
  // Python's connection and this one are one library's (two libraries in a process lose each other's locks:
  // sqlite.org/howtocorrupt.html, 2.2.1). Null and `why` when that cannot be. `lane` and `clearing` are ids; nobody
  // else writes in the lane. `patience_s` is for how long it waits while others have the database's lock.
  static std::unique_ptr<ChargeWriter> open(const std::string& path, i64 lane, i64 clearing, std::string& why,
                                            double patience_s = 30.0);
  virtual ~ChargeWriter() = default;

  // From one thread, that of the event loop.
  virtual void send(std::unique_ptr<Charge> charge) = 0;
  virtual void collect(std::vector<Answered>& answered) = 0;  // takes what has been answered
  virtual int ready() const = 0;  // an eventfd that is readable when there is something to collect
  virtual std::size_t queued() const = 0;
  // Books what is queued, then stops. Blocks, and must be called without the interpreter's lock, as `open`: Python's
  // writer may have the turn (turns.hpp) and need the interpreter to give it back.
  virtual void close() = 0;
};

}  // namespace express

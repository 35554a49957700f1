// What a batch of charges does to the ledger, within a transaction that somebody else begins and ends: the part of
// `marketplace.ledger.journal.BatchRun` and `dialect_sqlite.SqliteDialect` that charges without reholds need.
#pragma once
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "charges.hpp"
#include "sqlite.hpp"

namespace express {

// The ledger is not as it must be. Thrown within a transaction, which is then to be rolled back.
struct LedgerCorrupt {};

class Booking {
 public:
  Booking(SqliteConnection& connection, i64 lane, i64 clearing);

  // Decides each of the `count` charges in turn and writes what is booked; `outcomes` says for each what is true as
  // soon as the transaction is durable. With `careful`, ids that are known already are looked for: such a charge is
  // booked when the event under its id is its own, and unsure when it is another. Without, they violate a
  // uniqueness of the database. Returns whether any of the outcomes needs the log to be on disk.
  // Throws `SqliteError` and `LedgerCorrupt`; the transaction is to be rolled back then, and `forget` to be called.
  bool book(Charge* const* charges, std::size_t count, bool careful, Outcome* outcomes);

  bool has_lane();  // outside a transaction
  void forget();    // nothing that is remembered holds any more

 private:
  struct Account {
    bool bounded = false, changed = false;
    i64 id = 0, dr_pending = 0, dr_posted = 0, cr_pending = 0, cr_posted = 0;
  };
  using Sum = __int128;  // of amounts: no sum of 64-bit numbers leaves it
  struct Transfer {
    const Charge* charge;
    i64 seq, leg, code, debit, credit, amount, debit_total;
    bool has_total;
  };
  struct Event {
    const Charge* charge;
    i64 seq;
  };

  void look_around();
  Account& account(i64 id);
  bool known(const Charge& charge, Outcome& outcome);
  Outcome decide(const Charge& charge);
  bool balanced(const Charge& charge);
  bool adds_up(const Entry& entry, Sum& through, Sum& moved);
  void transfer(const Charge& charge, i64 leg, const Entry& entry);
  void event(const Charge& charge);
  void write();
  void write_accounts();
  void write_transfers();
  void write_events();
  void write_batch();

  SqliteConnection& connection_;
  const i64 lane_, clearing_;
  SqliteStatement version_, lane_row_, read_account_, read_event_, update_account_, insert_batch_;
  std::vector<SqliteStatement> insert_transfers_, insert_events_;  // by the number of rows

  i64 seen_version_ = 0;  // the database's version at which what follows was as it is here
  bool remembers_ = false;
  i64 next_seq_ = 0, next_batch_ = 0;
  std::string head_;
  std::unordered_map<i64, Account> accounts_;

  // Of the batch that is being booked.
  i64 first_seq_ = 0;
  std::vector<std::pair<Account*, Sum>> wanted_;
  std::vector<Account*> changed_;
  std::vector<Transfer> transfers_;
  std::vector<Event> events_;
  std::string transfers_json_, events_json_;
};

}  // namespace express

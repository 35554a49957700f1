// One connection of the charge writer, with all that belongs to it.
#pragma once
#include <string>

#include "booking.hpp"
#include "sqlite.hpp"

namespace express {

// A connection that is ours alone, as `catalog.ground.driver.connect` and `SqliteDialect` set theirs up: where SQLite
// would sync the log at each COMMIT, we do it ourselves, when the lock is free again. Throws `SqliteError`.
class LedgerSession {
 public:
  LedgerSession(const SqliteLibrary& library, const std::string& path, i64 lane, i64 clearing, int patience_ms);
  LedgerSession(const LedgerSession&) = delete;
  LedgerSession& operator=(const LedgerSession&) = delete;
  ~LedgerSession();

  // BEGIN IMMEDIATE: true, or false when somebody else has the lock. Whoever asks waits outside.
  bool begin();
  void commit() { commit_.run(); }
  bool in_transaction() const { return connection_.in_transaction(); }
  // Takes back what is not committed; false when that is not to be had and the connection has to go.
  bool roll_back() noexcept;

  bool sync();       // false when it is not known whether what has been committed is on disk
  bool empty_log();  // writes and syncs everything into the database itself, so that nothing depends on the log
  void tidy();       // writes a long log into the database, as SQLite would at a COMMIT

  Booking& booking() { return booking_; }

 private:
  std::string set_up();

  SqliteConnection connection_;
  const int patience_ms_;
  const std::string log_path_;  // empty where SQLite syncs by itself
  SqliteStatement begin_, commit_;
  Booking booking_;
  int log_ = -1;
};

}  // namespace express

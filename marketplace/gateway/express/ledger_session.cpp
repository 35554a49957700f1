#include "ledger_session.hpp"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

namespace express {

namespace {
constexpr int kLongLog = 1000;          // pages: when SQLite makes a checkpoint by itself
constexpr int kMostMsToEmpty = 1000;  // how long readers may be in the way of emptying the log
}  // namespace

LedgerSession::LedgerSession(const SqliteLibrary& library, const std::string& path, i64 lane, i64 clearing,
                             int patience_ms)
    : connection_(library, path),
      patience_ms_(patience_ms),
      log_path_(set_up()),
      begin_(connection_.prepare("BEGIN IMMEDIATE")),
      commit_(connection_.prepare("COMMIT")),
      booking_(connection_, lane, clearing) {
  if (!log_path_.empty()) connection_.take_checkpoints();
}

LedgerSession::~LedgerSession() {
  if (log_ >= 0) ::close(log_);
}

// Returns the log's path where it is ours to sync. Comes before anything is prepared: SQLite acts on `synchronous`
// when a statement is prepared, not executed.
std::string LedgerSession::set_up() {
  connection_.wait_for(patience_ms_);
  for (const char* pragma : {"PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", "PRAGMA foreign_keys = ON",
                             "PRAGMA cache_size = -6144"}) {
    connection_.execute(pragma);
  }
  std::string path;
  SqliteStatement mode = connection_.prepare("PRAGMA journal_mode");
  SqliteStatement list = connection_.prepare("PRAGMA database_list");
  bool has_log = mode.row() && mode.text(0) == "wal" && list.row() && !list.text(2).empty();
  if (has_log) path = std::string(list.text(2)) + "-wal";
  mode.reset();
  list.reset();
  if (has_log) connection_.execute("PRAGMA synchronous = NORMAL");
  return path;
}

bool LedgerSession::begin() {
  connection_.wait_for(0);
  int code = begin_.step_once();
  connection_.wait_for(patience_ms_);
  if (code == sqlite::DONE) return true;
  if (sqlite::kind_of(code) == sqlite::BUSY) return false;
  throw SqliteError{code};
}

bool LedgerSession::roll_back() noexcept {
  booking_.forget();
  try {
    if (connection_.in_transaction()) connection_.execute("ROLLBACK");
    return !connection_.in_transaction();
  } catch (const SqliteError&) {
    return false;
  }
}

bool LedgerSession::sync() {
  if (log_path_.empty()) return true;
  // It is there by now, and the same file for as long as anybody is connected.
  if (log_ < 0) log_ = ::open(log_path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (log_ < 0) return false;
  int failed;
  do {
    failed = fdatasync(log_);
  } while (failed != 0 && errno == EINTR);
  return failed == 0;
}

bool LedgerSession::empty_log() {
  connection_.wait_for(std::min(patience_ms_, kMostMsToEmpty));
  bool empty = connection_.empty_log();
  connection_.wait_for(patience_ms_);
  return empty;
}

void LedgerSession::tidy() {
  if (connection_.log_pages() >= kLongLog) connection_.checkpoint();
}

}  // namespace express

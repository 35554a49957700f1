// SQLite through the library that Python's `_sqlite3` uses, looked up at run time: building needs no header of it.
#pragma once
#include <memory>
#include <string>

#include "text.hpp"

struct sqlite3;
struct sqlite3_stmt;

namespace express {

// Result codes (sqlite.org/rescode.html); those of a connection of ours are extended ones, `kind_of` cuts them.
namespace sqlite {
constexpr int OK = 0, BUSY = 5, TOOBIG = 18, CONSTRAINT = 19, MISMATCH = 20, RANGE = 25, ROW = 100, DONE = 101;
constexpr int UNIQUE = 2067, PRIMARY_KEY = 1555;
constexpr int TEXT = 3, INTEGER = 1;
constexpr int kind_of(int code) { return code & 0xff; }
}  // namespace sqlite

// The functions that are needed, with types of our own (sqlite.org/c3ref/funclist.html).
struct SqliteLibrary {
  int (*open_v2)(const char*, sqlite3**, int, const char*);
  int (*close_v2)(sqlite3*);
  int (*extended_result_codes)(sqlite3*, int);
  int (*busy_timeout)(sqlite3*, int);
  int (*exec)(sqlite3*, const char*, int (*)(void*, int, char**, char**), void*, char**);
  int (*changes)(sqlite3*);
  int (*get_autocommit)(sqlite3*);
  int (*prepare_v3)(sqlite3*, const char*, int, unsigned, sqlite3_stmt**, const char**);
  int (*finalize)(sqlite3_stmt*);
  int (*step)(sqlite3_stmt*);
  int (*reset)(sqlite3_stmt*);
  int (*bind_int64)(sqlite3_stmt*, int, long long);
  int (*bind_null)(sqlite3_stmt*, int);
  int (*bind_text64)(sqlite3_stmt*, int, const char*, unsigned long long, void (*)(void*), unsigned char);
  int (*column_type)(sqlite3_stmt*, int);
  long long (*column_int64)(sqlite3_stmt*, int);
  const unsigned char* (*column_text)(sqlite3_stmt*, int);
  int (*column_bytes)(sqlite3_stmt*, int);
  void* (*wal_hook)(sqlite3*, int (*)(void*, sqlite3*, const char*, int), void*);
  int (*wal_checkpoint_v2)(sqlite3*, const char*, int, int*, int*);
  int (*threadsafe)();
  const char* (*errstr)(int);

  // The library of Python's `_sqlite3`, which must have been imported. Null and `why` when it is not to be had.
  // Two copies of SQLite in one process lose each other's locks (sqlite.org/howtocorrupt.html, 2.2.1).
  static const SqliteLibrary* of_python(std::string& why);
};

// What SQLite answered instead of doing it. Thrown within the charge writer's thread only.
struct SqliteError {
  int code;
};

// A prepared statement. Texts that are bound must live until it has been stepped and reset.
class SqliteStatement {
 public:
  SqliteStatement() = default;
  SqliteStatement(const SqliteLibrary& library, sqlite3_stmt* statement) : library_(&library), statement_(statement) {}
  SqliteStatement(SqliteStatement&& other) noexcept;
  SqliteStatement& operator=(SqliteStatement&& other) noexcept;
  ~SqliteStatement();
  explicit operator bool() const { return statement_ != nullptr; }

  // Throws `SqliteError`, as all of these do. Columns of the statement are numbered from 1 here, of a row from 0.
  void bind(int at, std::int64_t number);
  void bind(int at, View text);
  void bind_null(int at);
  bool row();  // one row further; false after the last one, with everything reset
  void run();  // to the end, then reset
  int step_once();  // what `sqlite3_step` says, then reset: for statements whose failure is no surprise
  void reset();

  bool is_text(int column) const;
  bool is_number(int column) const;
  std::int64_t number(int column) const;
  View text(int column) const;

 private:
  void check(int code);
  const SqliteLibrary* library_ = nullptr;
  sqlite3_stmt* statement_ = nullptr;
};

// A connection for one thread at a time.
class SqliteConnection {
 public:
  SqliteConnection(const SqliteLibrary& library, const std::string& path);  // of an existing file
  SqliteConnection(const SqliteConnection&) = delete;
  SqliteConnection& operator=(const SqliteConnection&) = delete;
  ~SqliteConnection();

  void wait_for(int milliseconds);  // how long a statement waits for others' locks
  void execute(const char* sql);
  SqliteStatement prepare(const std::string& sql);  // to be run many times
  int changes() const { return library_.changes(database_); }
  bool in_transaction() const { return library_.get_autocommit(database_) == 0; }

  // From now on checkpoints are ours: COMMIT makes none.
  void take_checkpoints();
  int log_pages() const { return log_pages_; }  // how long the log was after the last COMMIT
  void checkpoint();                            // as far as nobody is in the way; failing means later
  bool empty_log();                             // all of it into the database file, synced; the log is begun anew

 private:
  const SqliteLibrary& library_;
  sqlite3* database_ = nullptr;
  int log_pages_ = 0;
};

}  // namespace express

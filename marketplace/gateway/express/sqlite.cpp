#include "sqlite.hpp"

#include <dlfcn.h>
#include <link.h>

#include <cstring>
#include <mutex>
#include <utility>

namespace express {

namespace {

constexpr int kReadWrite = 0x2, kNoMutex = 0x8000;
constexpr unsigned kPersistent = 0x1;
constexpr unsigned char kUtf8 = 1;
constexpr int kPassive = 0, kTruncate = 3;
const char kModule[] = "/_sqlite3.";

// Finds the shared object of Python's module `_sqlite3` among those that the process has loaded.
int note_module(dl_phdr_info* info, std::size_t, void* found) {
  const char* name = info->dlpi_name == nullptr ? nullptr : std::strrchr(info->dlpi_name, '/');
  if (name == nullptr || std::strncmp(name, kModule, sizeof kModule - 1) != 0) return 0;
  *static_cast<std::string*>(found) = info->dlpi_name;
  return 1;
}

template <class Function>
bool look_up(void* handle, const char* name, Function*& function) {
  void* found = dlsym(handle, name);
  std::memcpy(&function, &found, sizeof found);  // POSIX promises that this is a function
  return found != nullptr;
}

bool look_up_all(void* handle, SqliteLibrary& library) {
  return look_up(handle, "sqlite3_open_v2", library.open_v2) && look_up(handle, "sqlite3_close_v2", library.close_v2) &&
         look_up(handle, "sqlite3_extended_result_codes", library.extended_result_codes) &&
         look_up(handle, "sqlite3_busy_timeout", library.busy_timeout) &&
         look_up(handle, "sqlite3_exec", library.exec) && look_up(handle, "sqlite3_changes", library.changes) &&
         look_up(handle, "sqlite3_get_autocommit", library.get_autocommit) &&
         look_up(handle, "sqlite3_prepare_v3", library.prepare_v3) &&
         look_up(handle, "sqlite3_finalize", library.finalize) && look_up(handle, "sqlite3_step", library.step) &&
         look_up(handle, "sqlite3_reset", library.reset) && look_up(handle, "sqlite3_bind_int64", library.bind_int64) &&
         look_up(handle, "sqlite3_bind_null", library.bind_null) &&
         look_up(handle, "sqlite3_bind_text64", library.bind_text64) &&
         look_up(handle, "sqlite3_column_type", library.column_type) &&
         look_up(handle, "sqlite3_column_int64", library.column_int64) &&
         look_up(handle, "sqlite3_column_text", library.column_text) &&
         look_up(handle, "sqlite3_column_bytes", library.column_bytes) &&
         look_up(handle, "sqlite3_wal_hook", library.wal_hook) &&
         look_up(handle, "sqlite3_wal_checkpoint_v2", library.wal_checkpoint_v2) &&
         look_up(handle, "sqlite3_threadsafe", library.threadsafe) && look_up(handle, "sqlite3_errstr", library.errstr);
}

int note_log(void* pages, sqlite3*, const char*, int count) {
  *static_cast<int*>(pages) = count;
  return sqlite::OK;
}

}  // namespace

const SqliteLibrary* SqliteLibrary::of_python(std::string& why) {
  static std::mutex asking;
  static SqliteLibrary library;
  static bool known = false;
  std::lock_guard<std::mutex> alone(asking);
  if (known) return &library;
  std::string module;
  dl_iterate_phdr(note_module, &module);
  if (module.empty()) {
    why = "Python's _sqlite3 has not been loaded, or is a part of the interpreter itself.";
    return nullptr;
  }
  // Both stay loaded: the handles are never closed.
  void* shared = dlopen("libsqlite3.so.0", RTLD_NOW | RTLD_NOLOAD);
  void* python = dlopen(module.c_str(), RTLD_NOW | RTLD_NOLOAD);
  if (shared == nullptr || python == nullptr) {
    why = "Python's _sqlite3 carries SQLite inside itself.";
    return nullptr;
  }
  // Somebody else may have loaded the shared library while Python has its own.
  if (dlsym(shared, "sqlite3_open_v2") != dlsym(python, "sqlite3_open_v2")) {
    why = "Python's _sqlite3 uses another SQLite than libsqlite3.so.0.";
    return nullptr;
  }
  if (!look_up_all(shared, library)) {
    why = "libsqlite3.so.0 is too old.";
    return nullptr;
  }
  if (library.threadsafe() == 0) {
    why = "libsqlite3.so.0 was built for one thread only.";
    return nullptr;
  }
  known = true;
  return &library;
}

SqliteStatement::SqliteStatement(SqliteStatement&& other) noexcept
    : library_(other.library_), statement_(other.statement_) {
  other.statement_ = nullptr;
}

SqliteStatement& SqliteStatement::operator=(SqliteStatement&& other) noexcept {
  std::swap(library_, other.library_);
  std::swap(statement_, other.statement_);
  return *this;
}

SqliteStatement::~SqliteStatement() {
  if (statement_ != nullptr) library_->finalize(statement_);
}

void SqliteStatement::check(int code) {
  if (code != sqlite::OK) throw SqliteError{code};
}

void SqliteStatement::bind(int at, std::int64_t number) { check(library_->bind_int64(statement_, at, number)); }

void SqliteStatement::bind(int at, View text) {
  // A null pointer would be NULL, and an empty text is none. Without a destructor SQLite makes no copy.
  const char* bytes = text.data() == nullptr ? "" : text.data();
  check(library_->bind_text64(statement_, at, bytes, text.size(), nullptr, kUtf8));
}

void SqliteStatement::bind_null(int at) { check(library_->bind_null(statement_, at)); }

bool SqliteStatement::row() {
  int code = library_->step(statement_);
  if (code == sqlite::ROW) return true;
  reset();
  if (code != sqlite::DONE) throw SqliteError{code};
  return false;
}

void SqliteStatement::run() {
  int code = step_once();
  if (code != sqlite::DONE && code != sqlite::ROW) throw SqliteError{code};
}

int SqliteStatement::step_once() {
  int code = library_->step(statement_);
  reset();
  return code;
}

void SqliteStatement::reset() { library_->reset(statement_); }  // what it says has been said by `step`

bool SqliteStatement::is_text(int column) const { return library_->column_type(statement_, column) == sqlite::TEXT; }

bool SqliteStatement::is_number(int column) const {
  return library_->column_type(statement_, column) == sqlite::INTEGER;
}

std::int64_t SqliteStatement::number(int column) const { return library_->column_int64(statement_, column); }

View SqliteStatement::text(int column) const {
  auto bytes = reinterpret_cast<const char*>(library_->column_text(statement_, column));
  if (bytes == nullptr) return {};
  return {bytes, static_cast<std::size_t>(library_->column_bytes(statement_, column))};
}

SqliteConnection::SqliteConnection(const SqliteLibrary& library, const std::string& path) : library_(library) {
  int code = library_.open_v2(path.c_str(), &database_, kReadWrite | kNoMutex, nullptr);
  if (code == sqlite::OK) code = library_.extended_result_codes(database_, 1);
  if (code != sqlite::OK) {
    library_.close_v2(database_);
    throw SqliteError{code};
  }
}

SqliteConnection::~SqliteConnection() { library_.close_v2(database_); }

void SqliteConnection::wait_for(int milliseconds) { library_.busy_timeout(database_, milliseconds); }

void SqliteConnection::execute(const char* sql) {
  int code = library_.exec(database_, sql, nullptr, nullptr, nullptr);
  if (code != sqlite::OK) throw SqliteError{code};
}

SqliteStatement SqliteConnection::prepare(const std::string& sql) {
  sqlite3_stmt* statement = nullptr;
  int length = static_cast<int>(sql.size()) + 1;  // with its end, so that SQLite needs no copy
  int code = library_.prepare_v3(database_, sql.c_str(), length, kPersistent, &statement, nullptr);
  if (code != sqlite::OK) throw SqliteError{code};
  return SqliteStatement(library_, statement);
}

void SqliteConnection::take_checkpoints() { library_.wal_hook(database_, note_log, &log_pages_); }

void SqliteConnection::checkpoint() { library_.wal_checkpoint_v2(database_, "main", kPassive, nullptr, nullptr); }

bool SqliteConnection::empty_log() {
  return library_.wal_checkpoint_v2(database_, "main", kTruncate, nullptr, nullptr) == sqlite::OK;
}

}  // namespace express

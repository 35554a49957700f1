#include "booking.hpp"

#include <algorithm>
#include <limits>

#include "json.hpp"

namespace express {

namespace {

constexpr std::size_t kMostKept = 16'384;  // accounts that are remembered: some megabytes of them
constexpr std::size_t kMostRows = 16;      // a statement
constexpr std::size_t kUsageColumns = 30;
constexpr i64 kPosted = 1, kUse = 4;  // chart.Kind, chart.Code

// marketplace.ledger.dialect: TRANSFER_COLUMNS and USAGE_COLUMNS, in the order of the chain.
const char kTransferNames[] = "lane, seq, tx, leg, kind, code, debit_id, credit_id, amount, debit_total, at_us";
const char kUsageNames[] =
    "id, org_id, key_id, project_id, listing, release_digest, endpoint_id, owner_org_id, price_version_id, prices, "
    "started_at_us, first_token_us, ended_at_us, input_uncached, cache_read, cache_write, output, reasoning, "
    "usage_source, outcome, streamed, list_cost_u, cost_u, wallet_u, voucher_u, free_u, overrun_u, raw_usage, route, "
    "request_sha256";

std::string insertion(const char* table, const std::string& columns, std::size_t rows) {
  std::string row = "(?";
  for (char c : columns) {
    if (c == ',') row += ", ?";
  }
  row += ")";
  std::string sql = std::string("INSERT INTO ") + table + " (" + columns + ") VALUES " + row;
  for (std::size_t n = 1; n < rows; ++n) sql += ", " + row;
  return sql;
}

void bind(SqliteStatement& statement, int at, const Value& value) {
  if (value.is_text) {
    statement.bind(at, View(value.text));
  } else {
    statement.bind(at, value.number);
  }
}

void append(std::string& json, const Value& value) {
  if (value.is_text) {
    append_json(json, value.text);
  } else {
    append_number(json, value.number);
  }
}

bool same(const Value& one, const Value& other) {
  if (one.is_text != other.is_text) return false;
  return one.is_text ? one.text == other.text : one.number == other.number;
}

bool same(const SqliteStatement& row, int column, const Value& value) {
  if (value.is_text) return row.is_text(column) && row.text(column) == value.text;
  return row.is_number(column) && row.number(column) == value.number;
}

// Whether it is a row at all: where it is not, Python's writer says what is wrong with it. What is not UTF-8 could
// be written and never be read again.
bool is_row(const Charge& charge) {
  const std::vector<Value>& usage = charge.usage;
  auto is_good = [](const Value& value) { return !value.is_text || is_utf8(value.text); };
  return usage.size() == kUsageColumns && usage[0].is_text && std::all_of(usage.begin(), usage.end(), is_good) &&
         is_utf8(charge.tx);
}

}  // namespace

Booking::Booking(SqliteConnection& connection, i64 lane, i64 clearing)
    : connection_(connection), lane_(lane), clearing_(clearing) {
  version_ = connection.prepare("PRAGMA data_version");
  lane_row_ = connection.prepare("SELECT next_seq, next_batch, head FROM ledger_lane WHERE id=?");
  read_account_ = connection.prepare(
      "SELECT dr_pending, dr_posted, cr_pending, cr_posted FROM ledger_account WHERE rule <> 0 AND id=?");
  read_event_ = connection.prepare(std::string("SELECT ") + kUsageNames + " FROM usage_event WHERE id=?");
  update_account_ =
      connection.prepare("UPDATE ledger_account SET dr_pending=?, dr_posted=?, cr_pending=?, cr_posted=? WHERE id=?");
  // The lane's row follows by a trigger.
  insert_batch_ =
      connection.prepare("INSERT INTO ledger_batch (lane, n, first_seq, last_seq, sha256) VALUES (?, ?, ?, ?, ?)");
  insert_transfers_.resize(kMostRows + 1);
  insert_events_.resize(kMostRows + 1);
}

bool Booking::has_lane() {
  lane_row_.bind(1, lane_);
  bool found = lane_row_.row();
  lane_row_.reset();
  return found;
}

void Booking::forget() {
  remembers_ = false;
  accounts_.clear();
}

bool Booking::book(Charge* const* charges, std::size_t count, bool careful, Outcome* outcomes) {
  look_around();
  first_seq_ = next_seq_;
  changed_.clear();
  transfers_.clear();
  events_.clear();
  transfers_json_ = "[";
  events_json_ = "[";
  bool found = false;
  for (std::size_t n = 0; n < count; ++n) {
    const Charge& charge = *charges[n];
    if (!is_row(charge)) {
      outcomes[n] = Outcome::unsure;
      continue;
    }
    if (careful && known(charge, outcomes[n])) {
      found = true;
      continue;
    }
    outcomes[n] = decide(charge);
    // What has been booked is not refused when it comes again and the money has gone meanwhile.
    if (outcomes[n] == Outcome::refused && known(charge, outcomes[n])) found = true;
  }
  if (events_.empty()) return found;
  write();
  return true;
}

// Forgets what somebody else may have changed since our last transaction: within a transaction SQLite's
// `data_version` is another one when another connection has committed anything since we looked.
void Booking::look_around() {
  if (!version_.row()) throw LedgerCorrupt{};
  i64 version = version_.number(0);
  version_.reset();
  if (!remembers_ || version != seen_version_ || accounts_.size() > kMostKept) accounts_.clear();
  if (remembers_ && version == seen_version_) return;
  lane_row_.bind(1, lane_);
  if (!lane_row_.row()) throw LedgerCorrupt{};
  next_seq_ = lane_row_.number(0);
  next_batch_ = lane_row_.number(1);
  head_ = lane_row_.text(2);
  lane_row_.reset();
  seen_version_ = version;
  remembers_ = true;
}

// Projections, and accounts that do not exist, are not bounded: they have no totals.
Booking::Account& Booking::account(i64 id) {
  auto [at, is_new] = accounts_.try_emplace(id);
  Account& account = at->second;
  if (!is_new) return account;
  account.id = id;
  read_account_.bind(1, id);
  if (read_account_.row()) {
    account.bounded = true;
    account.dr_pending = read_account_.number(0);
    account.dr_posted = read_account_.number(1);
    account.cr_pending = read_account_.number(2);
    account.cr_posted = read_account_.number(3);
    read_account_.reset();
  }
  return account;
}

// Whether an event of the charge's id has been booked, in this batch or before, and what that means for the charge.
bool Booking::known(const Charge& charge, Outcome& outcome) {
  const Value& id = charge.usage[0];
  auto of_batch = [&](const Event& event) { return same(event.charge->usage[0], id); };
  auto earlier = std::find_if(events_.begin(), events_.end(), of_batch);
  bool equal = true;
  if (earlier != events_.end()) {
    for (std::size_t n = 0; n < kUsageColumns; ++n) equal = equal && same(earlier->charge->usage[n], charge.usage[n]);
  } else {
    read_event_.bind(1, View(id.text));
    if (!read_event_.row()) return false;
    for (std::size_t n = 0; n < kUsageColumns; ++n) {
      equal = equal && same(read_event_, static_cast<int>(n), charge.usage[n]);
    }
    read_event_.reset();
  }
  outcome = equal ? Outcome::booked : Outcome::unsure;
  return true;
}

Outcome Booking::decide(const Charge& charge) {
  wanted_.clear();
  for (const Leg& leg : charge.legs) {
    Account& from = account(leg.account);
    if (leg.amount < 0 || !from.bounded) return Outcome::unsure;
    auto same_account = [&](const auto& each) { return each.first == &from; };
    auto at = std::find_if(wanted_.begin(), wanted_.end(), same_account);
    if (at == wanted_.end()) {
      wanted_.emplace_back(&from, leg.amount);
    } else {
      at->second += leg.amount;
    }
  }
  for (const auto& [from, amount] : wanted_) {
    if (amount > Sum(from->cr_posted) - from->dr_posted - from->dr_pending) return Outcome::refused;
  }
  if (!balanced(charge)) return Outcome::unsure;
  // From here on only the database can refuse it.
  i64 leg = 0;
  for (const Leg& paid : charge.legs) transfer(charge, leg++, {kUse, paid.account, paid.sink, paid.amount});
  for (const Entry& entry : charge.entries) transfer(charge, leg++, entry);
  event(charge);
  return Outcome::booked;
}

// Whether all that enters clearing leaves it again, no amount is negative and no total leaves 64 bits.
bool Booking::balanced(const Charge& charge) {
  Sum through = 0, moved = 0;
  for (const Leg& leg : charge.legs) moved += leg.amount;
  for (const Entry& entry : charge.entries) moved += std::max<i64>(entry.amount, 0);
  for (const Leg& leg : charge.legs) {
    if (!adds_up({kUse, leg.account, leg.sink, leg.amount}, through, moved)) return false;
  }
  for (const Entry& entry : charge.entries) {
    if (!adds_up(entry, through, moved)) return false;
  }
  return through == 0;
}

bool Booking::adds_up(const Entry& entry, Sum& through, Sum& moved) {
  constexpr i64 most = std::numeric_limits<i64>::max();
  if (entry.amount < 0) return false;
  const Account& debit = account(entry.debit);
  const Account& credit = account(entry.credit);
  if (!debit.bounded && entry.debit == clearing_) through -= entry.amount;
  if (!credit.bounded && entry.credit == clearing_) through += entry.amount;
  return debit.dr_posted + moved <= most && credit.cr_posted + moved <= most;
}

void Booking::transfer(const Charge& charge, i64 leg, const Entry& entry) {
  Transfer made{&charge, next_seq_++, leg, entry.code, entry.debit, entry.credit, entry.amount, 0, false};
  auto note = [&](Account& account) {
    if (!account.changed) changed_.push_back(&account);
    account.changed = true;
  };
  if (Account& debit = account(entry.debit); debit.bounded) {
    debit.dr_posted += entry.amount;
    made.debit_total = debit.dr_posted;
    made.has_total = true;
    note(debit);
  }
  if (Account& credit = account(entry.credit); credit.bounded) {
    credit.cr_posted += entry.amount;
    note(credit);
  }
  std::string& json = transfers_json_;
  if (!transfers_.empty()) json += ',';
  json += '[';
  append_number(json, lane_);
  json += ',';
  append_number(json, made.seq);
  json += ',';
  append_json(json, charge.tx);
  for (i64 number : {leg, kPosted, entry.code, entry.debit, entry.credit, entry.amount}) {
    json += ',';
    append_number(json, number);
  }
  json += ',';
  if (made.has_total) {
    append_number(json, made.debit_total);
  } else {
    json += "null";
  }
  json += ',';
  append_number(json, charge.at_us);
  json += ']';
  transfers_.push_back(made);
}

void Booking::event(const Charge& charge) {
  i64 seq = next_seq_++;
  std::string& json = events_json_;
  json += events_.empty() ? "[" : ",[";
  for (const Value& value : charge.usage) {
    append(json, value);
    json += ',';
  }
  append_number(json, lane_);
  json += ',';
  append_number(json, seq);
  json += ']';
  events_.push_back({&charge, seq});
}

void Booking::write() {
  transfers_json_ += ']';
  events_json_ += ']';
  write_accounts();
  write_transfers();
  write_events();
  write_batch();
}

void Booking::write_accounts() {
  std::sort(changed_.begin(), changed_.end(), [](const Account* a, const Account* b) { return a->id < b->id; });
  for (Account* account : changed_) {
    account->changed = false;
    update_account_.bind(1, account->dr_pending);
    update_account_.bind(2, account->dr_posted);
    update_account_.bind(3, account->cr_pending);
    update_account_.bind(4, account->cr_posted);
    update_account_.bind(5, account->id);
    update_account_.run();
    if (connection_.changes() != 1) throw LedgerCorrupt{};  // it has vanished under its lock
  }
}

void Booking::write_transfers() {
  for (std::size_t first = 0; first < transfers_.size(); first += kMostRows) {
    std::size_t rows = std::min(kMostRows, transfers_.size() - first);
    SqliteStatement& insert = insert_transfers_[rows];
    if (!insert) insert = connection_.prepare(insertion("ledger_transfer", kTransferNames, rows));
    int at = 1;
    for (std::size_t n = first; n < first + rows; ++n) {
      const Transfer& made = transfers_[n];
      insert.bind(at++, lane_);
      insert.bind(at++, made.seq);
      insert.bind(at++, View(made.charge->tx));
      for (i64 number : {made.leg, kPosted, made.code, made.debit, made.credit, made.amount}) {
        insert.bind(at++, number);
      }
      if (made.has_total) {
        insert.bind(at++, made.debit_total);
      } else {
        insert.bind_null(at++);
      }
      insert.bind(at++, made.charge->at_us);
    }
    insert.run();
  }
}

void Booking::write_events() {
  for (std::size_t first = 0; first < events_.size(); first += kMostRows) {
    std::size_t rows = std::min(kMostRows, events_.size() - first);
    SqliteStatement& insert = insert_events_[rows];
    if (!insert) insert = connection_.prepare(insertion("usage_event", kUsageNames + std::string(", lane, seq"), rows));
    int at = 1;
    for (std::size_t n = first; n < first + rows; ++n) {
      for (const Value& value : events_[n].charge->usage) bind(insert, at++, value);
      insert.bind(at++, lane_);
      insert.bind(at++, events_[n].seq);
    }
    insert.run();
  }
}

// The batch and its link of the chain (`chain.batch_sha256`).
void Booking::write_batch() {
  Sha256 link;
  link.update(head_);
  link.update("\n");
  link.update(transfers_json_);
  link.update("\n");
  link.update(events_json_);
  head_.clear();
  append_hex(head_, link.digest());
  insert_batch_.bind(1, lane_);
  insert_batch_.bind(2, next_batch_++);
  insert_batch_.bind(3, first_seq_);
  insert_batch_.bind(4, next_seq_ - 1);
  insert_batch_.bind(5, View(head_));
  insert_batch_.run();
}

}  // namespace express

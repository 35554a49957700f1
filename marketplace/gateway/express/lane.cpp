#include "lane.hpp"

#include <arpa/inet.h>

#include <cstring>
#include <unordered_map>

#include "call.hpp"

namespace express {

namespace {

// Without news of the directory for so long nothing that is kept may be trusted (`directory._STALE_US`).
constexpr std::int64_t kStaleUs = 30'000'000;
constexpr std::int64_t kTemplateTokens = 64;  // `hot._TEMPLATE_TOKENS`
constexpr std::int64_t kNoContext = std::int64_t{1} << 40;
constexpr std::size_t kMostKnown = 20'000;

// The secret in an `Authorization` header; '' where it is not written as every client writes it.
View secret_in(View authorization) {
  constexpr View kBearer = "bearer ";
  if (authorization.size() <= kBearer.size()) return {};
  for (std::size_t i = 0; i < kBearer.size(); ++i) {
    const char c = authorization[i];
    if ((c >= 'A' && c <= 'Z' ? c + 32 : c) != kBearer[i]) return {};
  }
  const View secret = authorization.substr(kBearer.size());
  for (const char c : secret)
    if (c <= ' ' || c > '~') return {};
  return secret;
}

std::string name_of(const Digest& digest, View model) {
  std::string name(reinterpret_cast<const char*>(digest.data()), digest.size());
  name.append(model);
  return name;
}

bool read_address(PyObject* terms, sockaddr_storage& address, socklen_t& length) {
  const Ref pair = attribute(terms, "address");
  const char* host = nullptr;
  int port = 0;
  if (!pair || !PyArg_ParseTuple(pair.get(), "si", &host, &port)) return false;
  std::memset(&address, 0, sizeof address);
  auto* four = reinterpret_cast<sockaddr_in*>(&address);
  auto* six = reinterpret_cast<sockaddr_in6*>(&address);
  if (inet_pton(AF_INET, host, &four->sin_addr) == 1) {
    four->sin_family = AF_INET;
    four->sin_port = htons(static_cast<std::uint16_t>(port));
    length = sizeof *four;
    return true;
  }
  if (inet_pton(AF_INET6, host, &six->sin6_addr) == 1) {
    six->sin6_family = AF_INET6;
    six->sin6_port = htons(static_cast<std::uint16_t>(port));
    length = sizeof *six;
    return true;
  }
  PyErr_Format(PyExc_ValueError, "%s is no address", host);
  return false;
}

class Open : public Express {
 public:
  explicit Open(PyObject* hooks) : lane_(hooks) {}
  ~Open() override {
    if (lane_.charges) {
      Py_BEGIN_ALLOW_THREADS;
      lane_.charges->close();
      Py_END_ALLOW_THREADS;
    }
    while (!lane_.running.empty()) lane_.running.back()->abandon();
  }

  bool prepare() { return lane_.prepare(); }
  void wired(Wire& wire) override { lane_.wire = &wire; }
  bool takes(Client& client, const Head& head, View body) override;
  void left(Client& client) override { static_cast<Call*>(client.call)->left(); }
  void slow(Client& client, bool slow) override { static_cast<Call*>(client.call)->slow(slow); }
  void tick(double) override {}
  PyObject* asked(const char* what, PyObject* arguments) override;

 private:
  PyObject* learn(PyObject* arguments);
  bool read_way(PyObject* object, Way& way);
  PyObject* open_charges(PyObject* arguments);

  LaneState lane_;
  Asked asked_;  // reused from request to request
  std::unordered_map<std::string, std::shared_ptr<const Known>> known_;
  std::int64_t heard_at_us_ = 0;
  bool draining_ = false;
};

bool Open::takes(Client& client, const Head& head, View body) {
  if (draining_ || known_.empty()) return false;
  const View secret = secret_in(head.authorization);
  if (secret.empty() || !read_request(body, asked_)) return false;
  const auto found = known_.find(name_of(sha256(secret), asked_.model));
  if (found == known_.end()) return false;
  const std::shared_ptr<const Known>& known = found->second;
  const std::int64_t at_us = now_us();
  if (at_us >= known->until_us || at_us - heard_at_us_ > kStaleUs) return false;
  // Byte-level tokenizers make at most one token of each byte (see `hot`).
  const auto input_tokens = static_cast<std::int64_t>(body.size()) + kTemplateTokens;
  const std::int64_t max_tokens = asked_.max_tokens != 0 ? asked_.max_tokens : known->usual_tokens;
  if (max_tokens <= 0 || input_tokens + max_tokens > known->context) return false;
  return Call::begin(lane_, client, known, asked_, body, at_us, input_tokens, max_tokens);
}

// Reads the terms of a call to one of the engines. False with a Python error set; or without one, where the lane
// is not to serve them.
bool Open::read_way(PyObject* object, Way& way) {
  way.object = Ref::share(object);
  way.terms = Terms::of(object, lane_.books.get());
  if (!way.terms) return false;
  way.endpoint = attribute(object, "endpoint");
  sockaddr_storage address;
  socklen_t length = 0;
  std::string model;
  if (!way.endpoint || !read_address(object, address, length) || !read_text(object, "head", way.head) ||
      !read_text(way.endpoint.get(), "model", model))
    return false;
  way.endpoint_id = attribute(way.endpoint.get(), "id");
  append_json(way.engine_model, model);
  way.engine = lane_.wire->engine(address, length);
  return static_cast<bool>(way.endpoint_id);
}

PyObject* Open::learn(PyObject* arguments) {
  const char* digest = nullptr;
  const char* model = nullptr;
  Py_ssize_t digest_size = 0, model_size = 0;
  PyObject *all = nullptr, *gate = nullptr;
  if (!PyArg_ParseTuple(arguments, "y#s#O!O", &digest, &digest_size, &model, &model_size, &PyTuple_Type, &all, &gate))
    return nullptr;
  auto known = std::make_shared<Known>();
  known->all = Ref::share(all);
  if (gate != Py_None) known->gate = Ref::share(gate);
  known->ways.resize(static_cast<std::size_t>(PyTuple_GET_SIZE(all)));
  for (std::size_t i = 0; i < known->ways.size(); ++i) {
    if (!read_way(PyTuple_GET_ITEM(all, static_cast<Py_ssize_t>(i)), known->ways[i]))
      return PyErr_Occurred() != nullptr ? nullptr : Py_NewRef(Py_False);
  }
  if (known->ways.empty()) Py_RETURN_FALSE;
  PyObject* first = known->ways.front().object.get();
  const Ref record = attribute(first, "record"), key = attribute(first, "key"), quotas = attribute(first, "quotas");
  if (!record || !key || !quotas || !read_quotas(quotas.get(), known->quotas)) return nullptr;
  known->org_id = attribute(key.get(), "org_id");
  const Ref listing = attribute(record.get(), "listing");
  if (!known->org_id || !listing || !read_number(first, "until_us", known->until_us) ||
      !read_number(listing.get(), "context_length", known->context, kNoContext) ||
      !read_number(listing.get(), "max_output_tokens", known->usual_tokens) ||
      !read_text(listing.get(), "slug", known->slug) ||
      !read_text(record.get(), "price_version_id", known->price_version_id))
    return nullptr;
  if (known->context == 0) known->context = kNoContext;
  if (known->usual_tokens == 0) known->usual_tokens = lane_.default_max_tokens;
  for (const i64 account : accounts_of(known->terms())) {
    known->accounts.push_back(number(account));
    if (!known->accounts.back()) return nullptr;
  }
  if (known_.size() >= kMostKnown) known_.clear();
  known_[std::string(digest, static_cast<std::size_t>(digest_size)) +
         std::string(model, static_cast<std::size_t>(model_size))] = std::move(known);
  Py_RETURN_TRUE;
}

PyObject* Open::open_charges(PyObject* arguments) {
  const char* path = nullptr;
  long long lane = 0, clearing = 0;
  if (!PyArg_ParseTuple(arguments, "sLL", &path, &lane, &clearing)) return nullptr;
  std::string why;
  const std::string file = path;
  // Without the interpreter's lock: Python's writer may hold the database's, and need ours to let go of it.
  Py_BEGIN_ALLOW_THREADS;
  lane_.charges = ChargeWriter::open(file, lane, clearing, why);
  Py_END_ALLOW_THREADS;
  if (lane_.charges) {
    lane_.wire->watch(lane_.charges->ready(), [](void* whose) { static_cast<LaneState*>(whose)->collect(); }, &lane_);
  }
  return text(why).release();
}

PyObject* Open::asked(const char* what, PyObject* arguments) {
  const View question = what;
  if (question == "learn") return learn(arguments);
  if (question == "forget") {
    known_.clear();
    Py_RETURN_NONE;
  }
  if (question == "heard") {
    long long at_us = 0;
    if (!PyArg_ParseTuple(arguments, "L", &at_us)) return nullptr;
    heard_at_us_ = at_us;
    Py_RETURN_NONE;
  }
  if (question == "draining") {
    draining_ = true;
    known_.clear();
    Py_RETURN_NONE;
  }
  if (question == "running") return PyLong_FromSize_t(lane_.running.size());
  if (question == "told") return lane_.counted.take();
  if (question == "charges") return open_charges(arguments);
  if (question == "queued") return PyLong_FromSize_t(lane_.charges ? lane_.charges->queued() : 0);
  if (question == "close") {
    if (lane_.charges) {
      Py_BEGIN_ALLOW_THREADS;
      lane_.charges->close();
      Py_END_ALLOW_THREADS;
      lane_.collect();
    }
    Py_RETURN_NONE;
  }
  PyErr_Format(PyExc_ValueError, "the lane does not know %s", what);
  return nullptr;
}

}  // namespace

std::unique_ptr<Express> Express::make(PyObject* hooks) {
  auto lane = std::make_unique<Open>(hooks);
  if (!lane->prepare()) return nullptr;
  return lane;
}

}  // namespace express

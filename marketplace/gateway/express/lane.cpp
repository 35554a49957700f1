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
    if (lane_.charges) lane_.charges->close();
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

PyObject* Open::learn(PyObject* arguments) {
  const char* digest = nullptr;
  const char* model = nullptr;
  Py_ssize_t digest_size = 0, model_size = 0;
  PyObject* object = nullptr;
  if (!PyArg_ParseTuple(arguments, "y#s#O", &digest, &digest_size, &model, &model_size, &object)) return nullptr;
  auto known = std::make_shared<Known>();
  known->object = Ref::share(object);
  known->terms = Terms::of(object, lane_.books.get());
  if (!known->terms) return PyErr_Occurred() != nullptr ? nullptr : Py_NewRef(Py_False);
  const Ref record = attribute(object, "record");
  const Ref endpoint = attribute(object, "endpoint");
  if (!record || !endpoint) return nullptr;
  const Ref listing = attribute(record.get(), "listing");
  sockaddr_storage address;
  socklen_t length = 0;
  std::string engine_model;
  if (!listing || !read_address(object, address, length) || !read_number(object, "until_us", known->until_us) ||
      !read_number(listing.get(), "context_length", known->context, kNoContext) ||
      !read_number(listing.get(), "max_output_tokens", known->usual_tokens) ||
      !read_text(listing.get(), "slug", known->slug) || !read_text(object, "head", known->head) ||
      !read_text(endpoint.get(), "model", engine_model) ||
      !read_text(record.get(), "price_version_id", known->price_version_id))
    return nullptr;
  if (known->context == 0) known->context = kNoContext;
  if (known->usual_tokens == 0) known->usual_tokens = lane_.default_max_tokens;
  append_json(known->engine_model, engine_model);
  const Ref quotas = attribute(object, "quotas"), key = attribute(object, "key");
  if (!quotas || !key || !read_quotas(quotas.get(), known->quotas)) return nullptr;
  known->endpoint = Ref::share(endpoint.get());
  known->endpoint_id = attribute(endpoint.get(), "id");
  known->org_id = attribute(key.get(), "org_id");
  if (!known->endpoint_id || !known->org_id) return nullptr;
  for (const i64 account : accounts_of(*known->terms)) {
    known->accounts.push_back(number(account));
    if (!known->accounts.back()) return nullptr;
  }
  known->engine = lane_.wire->engine(address, length);
  if (known->engine == nullptr) Py_RETURN_FALSE;
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
  lane_.charges = ChargeWriter::open(path, lane, clearing, why);
  if (lane_.charges) {
    lane_.wire->watch(
        lane_.charges->ready(), [](void* whose) { static_cast<LaneState*>(whose)->collect(); }, &lane_);
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
  if (question == "running") return PyLong_FromLongLong(lane_.running);
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

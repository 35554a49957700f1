// A bare pass-through in front of one upstream: the least that a metered gateway on Go's net/http does.
// It knows its callers by the sha256 of their key, reads the model's name to choose the upstream, and adds
// up the usage that it sees. It holds nothing, settles nothing and keeps nothing.
//
//	passthrough -listen 127.0.0.1:9000 -upstream http://127.0.0.1:8000 -key K -model mock
package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"io"
	"log"
	"net/http"
	"strings"
	"sync/atomic"
)

type usage struct {
	Prompt     int64 `json:"prompt_tokens"`
	Completion int64 `json:"completion_tokens"`
}

type answer struct {
	Usage *usage `json:"usage"`
}

type gateway struct {
	keys      map[[32]byte]string
	upstreams map[string]string
	client    *http.Client
	prompt    atomic.Int64
	output    atomic.Int64
}

func (g *gateway) count(data []byte) {
	var seen answer
	if json.Unmarshal(data, &seen) == nil && seen.Usage != nil {
		g.prompt.Add(seen.Usage.Prompt)
		g.output.Add(seen.Usage.Completion)
	}
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	secret := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if _, known := g.keys[sha256.Sum256([]byte(secret))]; !known {
		http.Error(w, `{"error":{"message":"unknown key"}}`, http.StatusUnauthorized)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, `{"error":{"message":"unreadable"}}`, http.StatusBadRequest)
		return
	}
	var asked struct {
		Model string `json:"model"`
	}
	if json.Unmarshal(body, &asked) != nil || g.upstreams[asked.Model] == "" {
		http.Error(w, `{"error":{"message":"unknown model"}}`, http.StatusNotFound)
		return
	}
	url := g.upstreams[asked.Model] + r.URL.Path
	request, err := http.NewRequestWithContext(r.Context(), http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		http.Error(w, `{"error":{"message":"bad address"}}`, http.StatusBadRequest)
		return
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := g.client.Do(request)
	if err != nil {
		http.Error(w, `{"error":{"message":"no upstream"}}`, http.StatusBadGateway)
		return
	}
	defer response.Body.Close()
	w.Header().Set("Content-Type", response.Header.Get("Content-Type"))
	w.WriteHeader(response.StatusCode)
	if strings.HasPrefix(response.Header.Get("Content-Type"), "text/event-stream") {
		g.stream(w, response.Body)
		return
	}
	data, err := io.ReadAll(response.Body)
	if err == nil {
		g.count(data)
		_, _ = w.Write(data)
	}
}

func (g *gateway) stream(w http.ResponseWriter, from io.Reader) {
	flusher := w.(http.Flusher)
	lines := bufio.NewReaderSize(from, 16<<10)
	for {
		line, err := lines.ReadBytes('\n')
		if bytes.Contains(line, []byte(`"usage":{`)) {
			g.count(bytes.TrimPrefix(line, []byte("data: ")))
		}
		_, _ = w.Write(line)
		// Flushed when nothing more has arrived, so that pieces which came together leave together.
		if lines.Buffered() == 0 || err != nil {
			flusher.Flush()
		}
		if err != nil {
			return
		}
	}
}

func main() {
	listen := flag.String("listen", "127.0.0.1:9000", "address")
	upstream := flag.String("upstream", "", "the upstream's address, without /v1")
	key := flag.String("key", "", "the one key that is known")
	model := flag.String("model", "mock", "the one model that is known")
	flag.Parse()
	transport := &http.Transport{MaxIdleConns: 1024, MaxIdleConnsPerHost: 1024, DisableCompression: true}
	g := &gateway{
		keys:      map[[32]byte]string{sha256.Sum256([]byte(*key)): "bench"},
		upstreams: map[string]string{*model: *upstream},
		client:    &http.Client{Transport: transport},
	}
	log.Fatal(http.ListenAndServe(*listen, g))
}

package retrieval

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
)

// A trap panics at what strangers send: it is the network, and reads what providers answer.
type trap struct{ *wire }

func (trap) Fetch(context.Context, cid.Cid) ([]byte, error) { panic("a trap for the network") }

func (trap) RoundTrip(*http.Request) (*http.Response, error) { panic("a trap for a provider") }

func TestAPanicWhileFetchingIsTheErrorOfThatBlock(t *testing.T) {
	d := plant(1, 1)
	w := &wire{dag: d, senders: map[string]*sender{"f01000": {}}}
	hot := &rack{blocks: map[string][]byte{}, puts: map[string]int{}}
	var logged bytes.Buffer
	s := New(Config{FetchTime: time.Minute}, Parts{Directory: w, Store: hot, Network: trap{w}, Codec: rawCodec{}},
		slog.New(slog.NewTextHandler(&logged, nil)), time.Now)
	s.client = &http.Client{Transport: trap{w}}
	if _, err := s.fetchAlone(t.Context(), d.root, d.root, nil); err == nil {
		t.Error("nobody has the block, and it was fetched")
	}
	for _, want := range []string{"a trap for the network", "a trap for a provider", "panic_test.go"} {
		if !strings.Contains(logged.String(), want) {
			t.Errorf("the log does not have %q:\n%s", want, &logged)
		}
	}
}

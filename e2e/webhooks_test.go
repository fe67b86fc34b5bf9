package e2e_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// A webhook learns of a pin whose DAG came from another node, also when the server was killed after it was made.
func TestWebhookIsCalledWithWhatBecomesOfAPin(t *testing.T) {
	t.Parallel()
	s := startServer(t, "FROSTPIN_WEBHOOK_PRIVATE=127.0.0.0/8")
	own := newAPI(t, s.root+"/api/v1", s.token)
	var mu sync.Mutex
	var secret string
	told := map[string]string{} // types by request
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		var at, sum string
		if _, err := fmt.Sscanf(strings.Replace(r.Header.Get("Frostpin-Signature"), ",v1=", " ", 1), "t=%s %s", &at, &sum); err != nil {
			t.Errorf("signature %q: %v", r.Header.Get("Frostpin-Signature"), err)
		}
		want := hmac.New(sha256.New, []byte(secret))
		fmt.Fprintf(want, "%s.%s", at, body)
		if sum != hex.EncodeToString(want.Sum(nil)) {
			t.Errorf("a wrong signature of %s", body)
		}
		var event struct{ Type, Requestid string }
		if err := json.Unmarshal(body, &event); err != nil {
			t.Errorf("%s: %v", body, err)
		}
		told[event.Requestid] += event.Type + " "
	}))
	t.Cleanup(receiver.Close)
	var made struct{ Secret string }
	mu.Lock()
	own.want(http.StatusCreated, http.MethodPost, "/webhooks", nil, map[string]any{"url": receiver.URL + "/in", "types": []string{"pin."}}, &made)
	secret = made.Secret
	mu.Unlock()
	s.proc.kill()
	s.start()

	node := startIPFS(t)
	content := node.addText(strings.Repeat("told ", 1000))
	p := s.api().add(pin{CID: content, Origins: node.addresses()})
	within(t, patience, "the webhook is called", func() (bool, any) {
		mu.Lock()
		defer mu.Unlock()
		return strings.Contains(told[p.ID], "pin.pinned "), told
	})
}

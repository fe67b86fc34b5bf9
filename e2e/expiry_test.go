package e2e_test

import (
	"net/http"
	"testing"
	"time"
)

// A pin with an end goes by itself, also when the server was not there at that moment, and no other goes with it.
func TestPinGoesAtItsEnd(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	api := s.api()
	content := startIPFS(t).addText("for a while")
	stays := api.add(pin{CID: content})
	begun := time.Now()
	soon := api.add(pin{CID: content, Meta: map[string]string{"frostpin.expires": "4s"}})
	end, err := time.Parse(time.RFC3339, soon.Info["pinned_until"])
	if err != nil || end.Sub(begun) < 3*time.Second || end.Sub(begun) > 10*time.Second {
		t.Errorf("it says it goes at %q, and it came at %s", soon.Info["pinned_until"], begun)
	}
	api.want(http.StatusBadRequest, http.MethodPost, "/pins", nil, pin{CID: content, Meta: map[string]string{"frostpin.expires": "yesterday"}}, nil)
	s.proc.kill()
	<-time.After(time.Until(end))
	s.start()
	within(t, patience, "the pin is gone", func() (bool, any) {
		code, err := api.call(t.Context(), http.MethodGet, "/pins/"+soon.ID, nil, nil, nil)
		return code == http.StatusNotFound, err
	})
	api.get(stays.ID)
}

package e2e_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
)

// What needs no fetching is pinned in the answer, however much else the account waits for.
func TestWhatIsHereIsPinnedAtOnceWhileMuchIsLookedFor(t *testing.T) {
	s := startServer(t, "FROSTPIN_FIND_ROOTS=20")
	api := s.api()
	for range 60 {
		api.add(pin{CID: unfindable()})
	}
	for i := range 10 {
		if got := api.add(pin{CID: identity(fmt.Sprint(i))}); got.Status != "pinned" {
			t.Fatalf("an identity CID is answered with %+v; want it pinned", got)
		}
	}
}

// Each of several clients is answered for itself, not with what another's request has not finished.
func TestWhatIsHereIsPinnedAtOnceForEveryoneWhoAsksTogether(t *testing.T) {
	s := startServer(t)
	api := s.api()
	const clients, rounds = 8, 50
	for round := range rounds {
		root := identity(fmt.Sprintf("round %d", round))
		answers := make([]pinStatus, clients)
		var group sync.WaitGroup
		for i := range clients {
			group.Go(func() {
				code, err := api.call(t.Context(), http.MethodPost, "/pins", nil, pin{CID: root}, &answers[i])
				if err != nil || code != http.StatusAccepted {
					t.Errorf("adding: code %d, error %v", code, err)
				}
			})
		}
		group.Wait()
		for _, got := range answers {
			if got.Status != "pinned" {
				t.Fatalf("round %d: an identity CID is answered with %+v; want it pinned", round, got)
			}
		}
	}
}

package e2e_test

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// TestAPinIsTold uploads with a stream open: the stream tells that the pin is pinned, and the list says the same later.
func TestAPinIsTold(t *testing.T) {
	s := startServer(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.root+"/api/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+s.token)
	r.Header.Set("Accept", "text/event-stream")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("opening a stream: %d", resp.StatusCode)
	}
	code, body := s.postAs("/pins", map[string]string{"cid": "bafkqaaa", "name": "told"})
	if code != http.StatusAccepted {
		t.Fatalf("pinning: %d %s", code, body)
	}

	type event struct{ ID, Type, CID, Name string }
	var told event
	lines := bufio.NewScanner(resp.Body)
	for told.Type != "pin.pinned" && lines.Scan() {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			if err := json.Unmarshal([]byte(data), &told); err != nil {
				t.Fatal(err)
			}
		}
	}
	if told.Type != "pin.pinned" || told.CID != "bafkqaaa" || told.Name != "told" {
		t.Errorf("told %+v, %v", told, lines.Err())
	}
	var list struct{ Events []event }
	code, body = s.fetchAs("/api/v1/events")
	if err := json.Unmarshal([]byte(body), &list); err != nil || code != http.StatusOK || !slices.Contains(list.Events, told) {
		t.Errorf("the list: %d %s", code, body)
	}
	var story struct{ History []event }
	code, body = s.fetchAs("/api/v1/pins/" + strings.SplitN(told.ID, "-", 2)[1])
	if err := json.Unmarshal([]byte(body), &story); err != nil || code != http.StatusOK || !slices.Contains(story.History, told) {
		t.Errorf("the story: %d %s", code, body)
	}
}

package retrieval_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/retrieval"
)

// Whatever a provider says, that a copy could not be read back is recorded.
func TestFailedProofIsRecordedWhateverTheProviderSays(t *testing.T) {
	databasetest.Each(t, retrieval.Migrations(), func(t *testing.T, db *database.DB) {
		d := newDAG(60, 3, 100)
		for name, says := range map[string]string{
			"no UTF-8":              "caf\xe9",
			"a NUL":                 "no\x00thing",
			"nothing that is text":  "\xff\x00\xff",
			"long, cut in a letter": strings.Repeat("é", 400),
			"long, cut in one more": "x" + strings.Repeat("é", 400),
		} {
			t.Run(name, func(t *testing.T) {
				p := newProvider(t, "f01000", d)
				f := newFixtureOn(t, db, nil, d, p)
				if _, err := f.Prove(t.Context(), d.root); err != nil {
					t.Fatal(err)
				}
				p.spoil = func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
					conn, _, err := http.NewResponseController(w).Hijack()
					if err != nil {
						t.Error(err)
						return true
					}
					defer conn.Close()
					_, _ = conn.Write([]byte("HTTP/1.1 500 " + says + "\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"))
					return true
				}
				if _, err := f.Prove(t.Context(), d.root); err == nil {
					t.Fatal("it is proven")
				}
				if at, err := f.Proven(t.Context(), d.root); err != nil || !at.IsZero() {
					t.Errorf("still proven at %v: %v", at, err)
				}
			})
		}
	})
}

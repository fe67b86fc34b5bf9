package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/deals"
)

// A provider's requests for one piece may reach any of the servers.
func TestServersOfOneDatabaseGiveAndTakeTheSamePieceTokens(t *testing.T) {
	databasetest.Each(t, deals.Migrations(), func(t *testing.T, db *database.DB) {
		before, other := bytes.Repeat([]byte{1}, secretSize), bytes.Repeat([]byte{2}, secretSize)
		for _, server := range []struct {
			name  string
			file  []byte
			warns bool
		}{{"upgraded, with deals under way", before, false}, {"new", nil, false}, {"upgraded later", other, true}} {
			path := filepath.Join(t.TempDir(), "piece.key")
			if server.file != nil {
				if err := os.WriteFile(path, server.file, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var log bytes.Buffer
			key, err := pieceKey(t.Context(), db, path, slog.New(slog.NewTextHandler(&log, nil)))
			if err != nil || !bytes.Equal(key, before) {
				t.Errorf("a server that is %s has another key: %v", server.name, err)
			}
			if strings.Contains(log.String(), "level=WARN") != server.warns {
				t.Errorf("a server that is %s says %q", server.name, log.String())
			}
		}
	})
}

func TestTheFirstServerDrawsThePieceKey(t *testing.T) {
	databasetest.Each(t, deals.Migrations(), func(t *testing.T, db *database.DB) {
		draw := func() []byte {
			key, err := pieceKey(t.Context(), db, filepath.Join(t.TempDir(), "piece.key"), slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			return key
		}
		first := draw()
		if len(first) != secretSize || bytes.Equal(first, make([]byte, secretSize)) || !bytes.Equal(first, draw()) {
			t.Error("the key is not drawn once")
		}
	})
}

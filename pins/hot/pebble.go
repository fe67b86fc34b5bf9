package hot

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	pebbleds "github.com/ipfs/go-ds-pebble"
	"github.com/ipfs/kubo/repo"
	"github.com/ipfs/kubo/repo/fsrepo"
)

// A pebbleStore is Kubo's pebble datastore on a file system that waits for room. pebble ends the process when it cannot
// write its log; Kubo's own configuration of it leaves no way to tell it otherwise. The parameters are Kubo's.
type pebbleStore struct {
	Path                        string `json:"path"`
	CacheSize                   int64  `json:"cacheSize"`
	BytesPerSync                int    `json:"bytesPerSync"`
	DisableWAL                  bool   `json:"disableWAL"`
	FormatMajorVersion          uint64 `json:"formatMajorVersion"`
	L0CompactionThreshold       int    `json:"l0CompactionThreshold"`
	L0StopWritesThreshold       int    `json:"l0StopWritesThreshold"`
	LBaseMaxBytes               int64  `json:"lBaseMaxBytes"`
	MaxConcurrentCompactions    int    `json:"maxConcurrentCompactions"`
	MemTableSize                uint64 `json:"memTableSize"`
	MemTableStopWritesThreshold int    `json:"memTableStopWritesThreshold"`
	WALBytesPerSync             int    `json:"walBytesPerSync"`
	WALMinSyncSeconds           int    `json:"walMinSyncIntervalSeconds"`
}

var _ fsrepo.DatastoreConfig = pebbleStore{}

// parsePebble is an fsrepo.ConfigFromMap.
func parsePebble(params map[string]any) (fsrepo.DatastoreConfig, error) {
	text, err := json.Marshal(params)
	if err != nil {
		return nil, fmt.Errorf("reading the settings of pebble: %w", err)
	}
	var s pebbleStore
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("reading the settings of pebble: %w", err)
	}
	if s.Path == "" {
		return nil, errors.New("reading the settings of pebble: there is no path")
	}
	return s, nil
}

// DiskSpec implements fsrepo.DatastoreConfig. It is what Kubo's own says, so that repositories stay the same.
func (s pebbleStore) DiskSpec() fsrepo.DiskSpec {
	return map[string]any{"type": Pebble, "path": s.Path}
}

// Create implements fsrepo.DatastoreConfig.
func (s pebbleStore) Create(dir string) (repo.Datastore, error) {
	path := s.Path
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("creating the directory of pebble: %w", err)
	}
	return pebbleds.NewDatastore(path, pebbleds.WithCacheSize(s.CacheSize), pebbleds.WithPebbleOpts(s.options(path)))
}

func (s pebbleStore) options(path string) *pebble.Options {
	o := &pebble.Options{
		FS:                          vfs.OnDiskFull(vfs.Default, func() { awaitRoom(path) }),
		BytesPerSync:                s.BytesPerSync,
		DisableWAL:                  s.DisableWAL,
		FormatMajorVersion:          pebble.FormatMajorVersion(s.FormatMajorVersion),
		L0CompactionThreshold:       s.L0CompactionThreshold,
		L0StopWritesThreshold:       s.L0StopWritesThreshold,
		LBaseMaxBytes:               s.LBaseMaxBytes,
		MemTableSize:                s.MemTableSize,
		MemTableStopWritesThreshold: s.MemTableStopWritesThreshold,
		WALBytesPerSync:             s.WALBytesPerSync,
	}
	if s.FormatMajorVersion == 0 {
		o.FormatMajorVersion = pebble.FormatNewest
	}
	if s.MaxConcurrentCompactions != 0 {
		o.CompactionConcurrencyRange = func() (int, int) { return 1, s.MaxConcurrentCompactions }
	}
	if s.WALMinSyncSeconds != 0 {
		o.WALMinSyncInterval = func() time.Duration { return time.Duration(s.WALMinSyncSeconds) * time.Second }
	}
	return o
}

// Room that there must be before a write that found none is tried again, which pebble does once.
const (
	leastRoom = 8 << 20
	roomEvery = 250 * time.Millisecond
)

// awaitRoom returns when something can be written below dir again. Writes wait meanwhile, also those that a stop of the
// node would make; the process then ends without them, which loses nothing that was acknowledged.
func awaitRoom(dir string) {
	tick := time.NewTicker(roomEvery)
	defer tick.Stop()
	for range tick.C {
		if free := freeSpace(dir); free < 0 || free >= leastRoom {
			return
		}
	}
}

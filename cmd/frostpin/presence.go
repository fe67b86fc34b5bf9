package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/uuid"
)

// Files of the data directory beside those of the database and the node.
const (
	lockFile     = "serve.lock"
	presenceFile = "serve.json"
	instanceFile = "instance"
	delegateFile = "delegates" // the node's addresses as clients were told last, one a line; they outlive the server
)

// makeDataDir creates the data directory for its owner alone.
func makeDataDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("creating the data directory: %w", err)
	}
	return nil
}

// lockPatience covers the moment for which another command tries the lock to see whether a server has it.
const lockPatience = 500 * time.Millisecond

// lockDataDir makes this process the only server on the directory until unlock is called. The system drops the lock
// of a process that dies.
func lockDataDir(ctx context.Context, dir string) (unlock func() error, err error) {
	lock := flock.New(filepath.Join(dir, lockFile), flock.SetPermissions(0o600))
	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	locked, err := lock.TryLockContext(ctx, lockPatience/10)
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("locking the data directory %s: %w", dir, err)
	}
	if !locked {
		return nil, fmt.Errorf("another frostpin serve is running on the data directory %s: stop it, or name another --data-dir", dir)
	}
	return lock.Unlock, nil
}

// instanceID names this data directory among the servers of one database. It is drawn on the first start.
func instanceID(dir string) (string, error) {
	path := filepath.Join(dir, instanceFile)
	content, err := os.ReadFile(path)
	if id := strings.TrimSpace(string(content)); err == nil && id != "" {
		return id, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("reading the name of this server: %w", err)
	}
	id := uuid.NewString()
	if err := replaceFile(path, []byte(id+"\n")); err != nil {
		return "", fmt.Errorf("naming this server: %w", err)
	}
	return id, nil
}

// secretFile returns the key in a file, drawn on the first use.
func secretFile(path string) ([]byte, error) {
	key, err := os.ReadFile(path)
	if err == nil && len(key) >= secretSize {
		return key, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading a key: %w", err)
	}
	key = make([]byte, secretSize)
	_, _ = rand.Read(key) // never fails
	if err := replaceFile(path, key); err != nil {
		return nil, fmt.Errorf("keeping a key: %w", err)
	}
	return key, nil
}

const secretSize = 32

// lastDelegates are the addresses that clients were told last, or none.
func lastDelegates(dir string) []string {
	content, err := os.ReadFile(filepath.Join(dir, delegateFile))
	if err != nil {
		return nil // there will be some once the node answers
	}
	return strings.Fields(string(content))
}

// A presence is what a running server tells other commands about itself. The file that holds it means nothing without
// the lock.
type presence struct {
	PID       int       `json:"pid"`
	Started   time.Time `json:"started"`
	Listening string    `json:"listening"` // host:port, with the port that was found
	Endpoint  string    `json:"endpoint"`  // what clients are given
	Delegates []string  `json:"delegates"` // the node's addresses, as clients are told
}

// write replaces the file.
func (p presence) write(dir string) error {
	content, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return fmt.Errorf("describing this server: %w", err)
	}
	if err := replaceFile(filepath.Join(dir, presenceFile), append(content, '\n')); err != nil {
		return fmt.Errorf("describing this server: %w", err)
	}
	return nil
}

// forgetPresence removes the file, also one that a server has left behind that was killed.
func forgetPresence(dir string) error {
	if err := os.Remove(filepath.Join(dir, presenceFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing what a server has told of itself: %w", err)
	}
	return nil
}

// replaceFile never leaves half a file behind.
func replaceFile(path string, content []byte) error {
	fresh := path + ".new"
	if err := os.WriteFile(fresh, content, 0o600); err != nil {
		return err
	}
	return os.Rename(fresh, path)
}

// running returns the presence of the server on a data directory; nil when there is none.
func running(dir string) (*presence, error) {
	if _, err := os.Stat(filepath.Join(dir, lockFile)); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	lock := flock.New(filepath.Join(dir, lockFile))
	free, err := lock.TryRLock() // shared, so that two commands do not take each other for a server
	if err != nil {
		return nil, fmt.Errorf("finding the server: %w", err)
	}
	if free {
		return nil, lock.Unlock()
	}
	content, err := os.ReadFile(filepath.Join(dir, presenceFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("a server is starting: ask again in a moment")
	}
	if err != nil {
		return nil, fmt.Errorf("finding the server: %w", err)
	}
	var p presence
	if err := json.Unmarshal(content, &p); err != nil {
		return nil, fmt.Errorf("finding the server: %w", err)
	}
	return &p, nil
}

// delegatesEvery is how often the addresses in the presence are looked at: a public node learns its own from others.
const delegatesEvery = 15 * time.Second

// keepPresence writes the presence, keeps its addresses up to date and removes it when ctx ends. Nothing depends on
// it but other commands' reports, so its failures do not end the server.
func keepPresence(ctx context.Context, dir string, p presence, tier hotTier, log *slog.Logger) {
	ticker := time.NewTicker(delegatesEvery)
	defer ticker.Stop()
	for written := false; ; written = true {
		delegates, err := tier.Delegates(ctx)
		if err != nil {
			log.Debug("delegates are not known yet", "err", err)
		}
		if !written || !slices.Equal(delegates, p.Delegates) {
			p.Delegates = delegates
			err := p.write(dir)
			if err == nil && len(delegates) > 0 {
				err = replaceFile(filepath.Join(dir, delegateFile), []byte(strings.Join(delegates, "\n")+"\n"))
			}
			if err != nil {
				log.Warn("other commands will not find this server", "err", err)
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			if err := forgetPresence(dir); err != nil {
				log.Warn("other commands may believe that this server runs", "err", err)
			}
			return
		}
	}
}

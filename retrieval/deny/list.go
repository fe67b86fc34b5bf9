package deny

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs-shipyard/nopfs"
	"github.com/ipfs/boxo/path"
	"github.com/ipfs/go-cid"
)

// every is how often files are looked at.
const every = 5 * time.Second

// A List is what several denylist files say. It is safe for concurrent use.
type List struct {
	log   *slog.Logger
	rules atomic.Pointer[[]*nopfs.Denylist] // in the order of the files

	mu    sync.Mutex // one reload at a time
	files []file
}

// A file is one denylist as it was read last.
type file struct {
	name string
	info os.FileInfo
	list *nopfs.Denylist
}

// Open reads denylist files. It fails when one of them cannot be read: a service that was told what not to serve does
// not start without knowing it. Lines that make no sense are named in the log and skipped.
func Open(names []string, log *slog.Logger) (*List, error) {
	l := &List{log: log}
	for _, name := range names {
		f := file{name: name}
		if err := f.read(log); err != nil {
			return nil, fmt.Errorf("reading denylist %s: %w", name, err)
		}
		l.files = append(l.files, f)
	}
	l.publish()
	return l, nil
}

// Run looks for changed files until ctx ends.
func (l *List) Run(ctx context.Context) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := l.Reload(); err != nil {
				l.log.Error("denylist not reloaded, its last rules stay", "err", err)
			}
		}
	}
}

// Reload reads the files that have changed. What cannot be read keeps its rules.
func (l *List) Reload() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var problems []error
	changed := false
	for i := range l.files {
		f := &l.files[i]
		info, err := os.Stat(f.name)
		if err == nil && os.SameFile(info, f.info) && info.Size() == f.info.Size() && info.ModTime().Equal(f.info.ModTime()) {
			continue
		}
		if err == nil {
			err = f.read(l.log)
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("reading denylist %s: %w", f.name, err))
			continue
		}
		changed = true
	}
	if changed {
		l.publish()
	}
	return errors.Join(problems...)
}

func (l *List) publish() {
	rules := make([]*nopfs.Denylist, len(l.files))
	for i, f := range l.files {
		rules[i] = f.list
	}
	l.rules.Store(&rules)
}

// read takes the file as it is now. f stays as it was when that fails.
func (f *file) read(log *slog.Logger) error {
	in, err := os.Open(f.name)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat() // before reading: what is written meanwhile is a change
	if err != nil {
		return err
	}
	text, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	text = readable(text)
	list, err := parse(f.name, text)
	if err != nil {
		return err
	}
	if bad := unread(list, text); len(bad) > 0 {
		log.Warn("denylist has lines that mean nothing", "list", f.name, "lines", len(bad), "first", bad[0])
	}
	log.Info("denylist read", "list", f.name, "name", list.Header.Name, "rules", len(list.Entries))
	f.info, f.list = info, list
	return nil
}

// parse reads a list from memory. A file that nopfs cannot stand is an error, and no end of the server.
func parse(name string, text []byte) (list *nopfs.Denylist, err error) {
	defer func() {
		if broken := recover(); broken != nil {
			list, err = nil, fmt.Errorf("reading %s: %v", name, broken)
		}
	}()
	list, err = nopfs.NewDenylistReader(nopClose{bytes.NewReader(text)})
	if err != nil {
		return nil, err
	}
	list.Filename = name
	return list, nil
}

// readable is a list as nopfs can read it, line by line the same: it waits for the rest of a last line without an end, and
// panics at one of nothing but spaces.
func readable(text []byte) []byte {
	out := make([]byte, 0, len(text)+1)
	for line := range bytes.Lines(text) {
		if len(bytes.Fields(line)) > 0 {
			out = append(out, bytes.TrimRight(line, "\n")...)
		}
		out = append(out, '\n')
	}
	return out
}

type nopClose struct{ *bytes.Reader }

func (nopClose) Close() error { return nil }

// unread returns the numbers of the lines that look like rules and became none. Rules for the empty file and the empty
// directory are among them: nopfs leaves those out, because blocking them breaks programs.
func unread(list *nopfs.Denylist, text []byte) (lines []uint64) {
	taken := make(map[uint64]bool, len(list.Entries))
	for _, e := range list.Entries {
		taken[e.Line] = true
	}
	number := uint64(0)
	header, body, ok := bytes.Cut(text, []byte("\n---\n"))
	if ok {
		number = uint64(bytes.Count(header, []byte("\n"))) + 2
	} else {
		body = text
	}
	for line := range bytes.Lines(body) {
		number++
		line = bytes.TrimRight(line, "\n")
		if len(line) > 0 && line[0] != '#' && !taken[number] {
			lines = append(lines, number)
		}
	}
	return lines
}

// A Match is content that is on a list.
type Match struct {
	What  string // the CID or path
	List  string // the file
	Line  uint64 // in it
	Legal bool   // denied by law: the rule or its list has the hint gateway_status=451
}

// Status is the HTTP status of the answer: 410, or 451 for what is denied by law.
func (m *Match) Status() int {
	if m.Legal {
		return http.StatusUnavailableForLegalReasons
	}
	return http.StatusGone
}

// Error implements error. boxo's gateway knows denied content by these words.
func (m *Match) Error() string { return m.What + " is blocked and cannot be provided" }

// Denied returns a *Match when a CID is on a list, whatever its spelling and codec, and nil otherwise.
func (l *List) Denied(c cid.Cid) error {
	for _, list := range *l.rules.Load() {
		if r := list.IsCidBlocked(c); r.Status != nopfs.StatusNotFound {
			return match(c.String(), list, r)
		}
	}
	return nil
}

// DeniedPath returns a *Match when a path, or the root of it, is on a list, and nil otherwise.
func (l *List) DeniedPath(p path.Path) error {
	for _, list := range *l.rules.Load() {
		if r := list.IsPathBlocked(p); r.Status != nopfs.StatusNotFound {
			return match(strings.TrimSuffix(p.String(), "/"), list, r)
		}
	}
	return nil
}

// match makes an answer of what a list says. What nopfs cannot decide is denied.
func match(what string, list *nopfs.Denylist, r nopfs.StatusResponse) error {
	if r.Status == nopfs.StatusAllowed {
		return nil
	}
	return &Match{What: what, List: list.Filename, Line: r.Entry.Line, Legal: r.Entry.Hints["gateway_status"] == "451"}
}

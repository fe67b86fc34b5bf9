package piece

import (
	"container/list"
	"context"
	"encoding/base32"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/ipfs/go-cid"
)

const (
	layoutSuffix = ".layout"
	tempPattern  = "*.temp"
)

// A Store keeps layouts in a directory of its own, and makes pieces and readers from them. OpenStore makes one. It may
// be used concurrently, by one process.
type Store struct {
	dir   string
	most  int64
	now   func() time.Time
	rooms rooms

	mu     sync.Mutex
	byName map[string]*list.Element
	byUse  *list.List // of kept; the one used last is in front
	total  int64      // bytes of layouts
	wanted map[string]int
}

// kept is a layout on disk.
type kept struct {
	name string
	size int64
}

// OpenStore opens the directory, creating it where there is none, and removes what a crash has left in it. The layouts
// in it take at most so many bytes, but the one used last always stays; zero is no bound.
func OpenStore(dir string, most int64) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("creating the directory of layouts: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading the directory of layouts: %w", err)
	}
	s := &Store{dir: dir, most: most, now: time.Now, byName: make(map[string]*list.Element), byUse: list.New(), wanted: make(map[string]int), rooms: newRooms()}
	var infos []fs.FileInfo
	for _, entry := range entries {
		if leftover, _ := filepath.Match(tempPattern, entry.Name()); leftover {
			if err := os.Remove(filepath.Join(dir, entry.Name())); err != nil {
				return nil, fmt.Errorf("removing what a crash has left: %w", err)
			}
			continue
		}
		if info, err := entry.Info(); err == nil && strings.HasSuffix(entry.Name(), layoutSuffix) {
			infos = append(infos, info)
		}
	}
	slices.SortFunc(infos, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for _, info := range infos {
		s.admit(info.Name(), info.Size())
	}
	return s, nil
}

// Close ends the walks that Open and Ensure have begun, waits until they have ended, and lets none begin. Readers go on.
func (s *Store) Close() error {
	s.rooms.close()
	return nil
}

// layoutName returns the file name for a root: a CIDv1 as it is written, whatever the file system makes of capitals.
func layoutName(root cid.Cid) string {
	lower := base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)
	return "b" + lower.EncodeToString(root.Bytes()) + layoutSuffix
}

// Build walks the DAG once: it computes the piece and writes the layout, in the place of one that is there. limit is
// the largest piece allowed, zero for none. Errors: *TooLargeError, those of blocks.
func (s *Store) Build(ctx context.Context, blocks Blocks, root cid.Cid, limit abi.PaddedPieceSize) (Piece, error) {
	sum := newSummer()
	defer sum.stop()
	if _, err := sum.Write(carHeader(root)); err != nil {
		return Piece{}, fmt.Errorf("computing the piece of %s: %w", root, err)
	}
	err := s.lay(ctx, blocks, root, func(head, data []byte) error {
		if limit > 0 && sum.car+int64(len(head)+len(data)) > int64(limit.Unpadded()) {
			return &TooLargeError{Limit: limit}
		}
		if _, err := sum.Write(head); err != nil {
			return err
		}
		_, err := sum.Write(data)
		return err
	})
	if err != nil {
		return Piece{}, fmt.Errorf("making the CAR of %s: %w", root, err)
	}
	p, err := sum.piece()
	if err == nil && limit > 0 && p.Size > limit {
		err = &TooLargeError{Limit: limit}
	}
	if err != nil {
		return Piece{}, fmt.Errorf("computing the piece of %s: %w", root, err)
	}
	return p, nil
}

// lay walks the DAG and writes its layout. each, which may be nil, gets the sections of the CAR.
func (s *Store) lay(ctx context.Context, blocks Blocks, root cid.Cid, each func(head, data []byte) error) (err error) {
	if !root.Defined() {
		return errors.New("there is no root")
	}
	file, err := os.CreateTemp(s.dir, tempPattern)
	if err != nil {
		return fmt.Errorf("creating a layout: %w", err)
	}
	defer func() {
		file.Close()
		if err != nil {
			err = errors.Join(err, os.Remove(file.Name()))
		}
	}()
	w, err := newLayoutWriter(file, root)
	if err != nil {
		return fmt.Errorf("writing the layout: %w", err)
	}
	var head []byte
	err = walk(ctx, blocks, root, func(c cid.Cid, data []byte) error {
		head = sectionHead(head[:0], c, int64(len(data)))
		if each != nil {
			if err := each(head, data); err != nil {
				return err
			}
		}
		if err := w.add(c, len(head), int64(len(data))); err != nil {
			return fmt.Errorf("writing the layout: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := errors.Join(w.finish(), file.Sync()); err != nil {
		return fmt.Errorf("writing the layout: %w", err)
	}
	return s.keep(file, layoutName(root))
}

// keep gives a finished layout its name, durably, and makes room for it.
func (s *Store) keep(file *os.File, name string) error {
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("measuring the layout: %w", err)
	}
	s.mu.Lock()
	err = os.Rename(file.Name(), filepath.Join(s.dir, name))
	if err == nil {
		s.admit(name, info.Size())
	}
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("naming the layout: %w", err)
	}
	return syncDir(s.dir)
}

// syncDir makes names in a directory durable, where the system can.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("opening the directory of layouts: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, fs.ErrInvalid) {
		return fmt.Errorf("flushing the directory of layouts: %w", err)
	}
	return nil
}

// admit counts a layout that is on disk as the one used last, and removes others until there is room. s.mu is held, or
// nobody knows s yet. A file that cannot be removed is forgotten: the next start finds it.
func (s *Store) admit(name string, size int64) {
	s.forget(name)
	s.byName[name] = s.byUse.PushFront(kept{name, size})
	s.total += size
	for e := s.byUse.Back(); e != s.byUse.Front() && s.most > 0 && s.total > s.most; {
		old := e.Value.(kept).name
		e = e.Prev()
		if s.wanted[old] == 0 {
			_ = os.Remove(filepath.Join(s.dir, old)) //nolint:errcheck // see above
			s.forget(old)
		}
	}
}

// want keeps a layout from being removed for lack of room until release is called: who has waited for it to be made
// must find it.
func (s *Store) want(name string) (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted[name]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.wanted[name]--; s.wanted[name] == 0 {
			delete(s.wanted, name)
		}
	}
}

func (s *Store) forget(name string) {
	if e := s.byName[name]; e != nil {
		s.total -= s.byUse.Remove(e).(kept).size
		delete(s.byName, name)
	}
}

// Remove removes the layout of a DAG that is not wanted any more. Readers that are open go on. It is no error when
// there is none.
func (s *Store) Remove(root cid.Cid) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := layoutName(root)
	s.forget(name)
	if err := os.Remove(filepath.Join(s.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the layout of %s: %w", root, err)
	}
	return nil
}

// open opens the layout of a DAG, which is then the one used last. fs.ErrNotExist where there is none.
func (s *Store) open(root cid.Cid) (*os.File, *layout, error) {
	name := layoutName(root)
	s.mu.Lock()
	defer s.mu.Unlock()
	path := filepath.Join(s.dir, name)
	file, err := os.Open(path)
	if err != nil {
		s.forget(name)
		return nil, nil, fmt.Errorf("opening the layout of %s: %w", root, err)
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, nil, fmt.Errorf("measuring the layout of %s: %w", root, err)
	}
	l, err := readLayout(file, info.Size(), root)
	if err != nil {
		file.Close()
		return nil, nil, err
	}
	s.admit(name, info.Size())
	now := s.now()
	_ = os.Chtimes(path, now, now) //nolint:errcheck // it only orders removals after a restart
	return file, l, nil
}

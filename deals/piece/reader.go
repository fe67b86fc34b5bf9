package piece

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/ipfs/go-cid"
)

// What a Reader and a Store say after Close.
var (
	errClosed      = errors.New("the piece was closed")
	errStoreClosed = errors.New("the store of layouts was closed")
)

// A Reader reads the bytes of a piece from the blocks of its DAG. It reads ahead: little at first, then more the longer
// it is read in sequence. One goroutine at a time may use it.
type Reader struct {
	ctx    context.Context
	store  *Store
	blocks Blocks
	file   *os.File
	layout *layout
	size   int64 // of the piece, zeros included
	off    int64

	line   *line
	closed bool
	head   []byte  // of the section that is being read
	body   *fetch  // nil when none is
	at     section // which
	parts  chan section
}

// Open returns a reader of the bytes of a piece: the CAR of root, and zeros after it up to raw bytes (Piece.RawSize).
// Where the layout is missing the DAG is walked first; callers that want the same DAG wait for one walk, which goes on for
// a while after the last of them has left. ctx bounds the reader, not only its opening. Errors, also of Read: those of blocks.
func (s *Store) Open(ctx context.Context, blocks Blocks, root cid.Cid, raw int64) (*Reader, error) {
	file, l, err := s.layout(ctx, blocks, root)
	if err != nil {
		return nil, err
	}
	if raw < l.car {
		file.Close()
		return nil, fmt.Errorf("opening the piece of %s: its CAR has %d bytes, more than %d", root, l.car, raw)
	}
	return &Reader{ctx: ctx, store: s, blocks: blocks, file: file, layout: l, size: raw}, nil
}

// Ensure makes sure that the layout of a DAG is there, so that readers need not wait for it to be made. A walk that it
// has begun goes on for a while when ctx ends. Errors: those of blocks.
func (s *Store) Ensure(ctx context.Context, blocks Blocks, root cid.Cid) error {
	file, _, err := s.layout(ctx, blocks, root)
	if err != nil {
		return err
	}
	return file.Close()
}

// layout opens a layout, and makes it first where there is none. The caller closes the file.
func (s *Store) layout(ctx context.Context, blocks Blocks, root cid.Cid) (*os.File, *layout, error) {
	if !root.Defined() {
		return nil, nil, errors.New("opening a piece: there is no root")
	}
	defer s.want(layoutName(root))()
	for try := 0; ; try++ {
		file, l, err := s.open(root)
		if err == nil {
			return file, l, nil
		}
		// Remove may be called before it is opened, but not for ever.
		if try == 3 || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errDamaged) {
			return nil, nil, err
		}
		err = s.rooms.do(ctx, layoutName(root), func(ctx context.Context) error {
			return s.lay(ctx, blocks, root, nil)
		})
		if err != nil {
			return nil, nil, fmt.Errorf("making the layout of %s: %w", root, err)
		}
	}
}

// Size is the number of bytes, zeros included.
func (r *Reader) Size() int64 { return r.size }

// CARSize is the number of bytes before the zeros.
func (r *Reader) CARSize() int64 { return r.layout.car }

// Seek implements io.Seeker. It reads nothing.
func (r *Reader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += r.off
	case io.SeekEnd:
		offset += r.size
	default:
		return 0, fmt.Errorf("seeking in a piece: whence %d", whence)
	}
	if offset < 0 {
		return 0, fmt.Errorf("seeking in a piece: to %d", offset)
	}
	r.off = offset
	return offset, nil
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	switch {
	case r.closed:
		return 0, errClosed
	case len(p) == 0:
		return 0, nil
	case r.off >= r.size:
		return 0, io.EOF
	case r.off >= r.layout.car:
		p = p[:min(int64(len(p)), r.size-r.off)]
		clear(p)
		r.off += int64(len(p))
		return len(p), nil
	case r.off < int64(len(r.layout.header)):
		n := copy(p, r.layout.header[r.off:])
		r.off += int64(n)
		return n, nil
	}
	if err := r.reach(); err != nil {
		if errors.Is(err, errDamaged) { // so that the next one to open it walks
			err = errors.Join(err, r.store.Remove(r.layout.root))
		}
		return 0, fmt.Errorf("reading the CAR of %s: %w", r.layout.root, err)
	}
	in := r.off - r.at.start
	var n int
	if in < int64(len(r.head)) {
		n = copy(p, r.head[in:])
		in += int64(n)
	}
	if in >= int64(len(r.head)) {
		n += copy(p[n:], r.body.data[in-int64(len(r.head)):])
	}
	r.off += int64(n)
	return n, nil
}

// reach makes the section that covers r.off the one that is read.
func (r *Reader) reach() error {
	if r.body != nil && r.at.start <= r.off && r.off < r.at.end() {
		return nil
	}
	if r.body == nil || r.off != r.at.end() {
		r.restart()
	}
	body, err := r.line.next()
	if err != nil {
		r.stop()
		if errors.Is(err, io.EOF) {
			err = damaged("nothing covers byte %d", r.off)
		}
		return err
	}
	r.body, r.at = body, <-r.parts
	if int64(len(body.data)) != r.at.data {
		r.stop()
		return damaged("block %s has %d bytes, not %d", body.cid, len(body.data), r.at.data)
	}
	r.head = sectionHead(r.head[:0], body.cid, r.at.data)
	return nil
}

// restart begins to read ahead at r.off.
func (r *Reader) restart() {
	r.stop()
	l, parts, off := newLine(r.ctx, r.blocks, firstRead, aheadRead), make(chan section, queued+1), r.off
	r.line, r.parts = l, parts
	l.fill(func() error {
		return r.layout.sections(off, func(s section) error {
			select {
			case parts <- s:
			case <-l.ctx.Done():
				return context.Cause(l.ctx)
			}
			return l.put(l.fetch(s.cid, s.data))
		})
	})
}

// stop ends reading ahead.
func (r *Reader) stop() {
	if r.line != nil {
		r.line.close()
	}
	r.line, r.body = nil, nil
}

// Close implements io.Closer.
func (r *Reader) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	r.stop()
	return r.file.Close()
}

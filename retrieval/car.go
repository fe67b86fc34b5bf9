package retrieval

import (
	"errors"
	"fmt"
	"io"
	"runtime/debug"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/ipld/go-car/v2"
)

// maxCARHeader is the largest header of a CAR with one root.
const maxCARHeader = 4 << 10

// sectionsAhead is how many blocks of a CAR are read before they are taken: enough that the sender, the hashing and
// the store do not wait for each other.
const sectionsAhead = 8

// A section is one block of a CAR.
type section struct {
	block   blocks.Block
	err     error         // why there is no further one, or that its bytes are not the block
	checked chan struct{} // closed when the rest is there
}

// readAhead reads the sections of a CAR and verifies them, several at once, until stop or the stream is closed.
func readAhead(reader *car.BlockReader, stop <-chan struct{}) <-chan *section {
	out := make(chan *section, sectionsAhead)
	go func() {
		defer close(out)
		for last := false; !last; {
			s := &section{checked: make(chan struct{})}
			s.err = safely(func() (err error) {
				s.block, err = reader.Next()
				return err
			})
			if last = s.err != nil; last {
				close(s.checked)
			} else {
				go s.check()
			}
			select {
			case out <- s:
			case <-stop:
				return
			}
		}
	}()
	return out
}

func (s *section) check() {
	defer close(s.checked)
	s.err = safely(func() error {
		if !verified(s.block.Cid(), s.block.RawData()) {
			return fmt.Errorf("the bytes of a block are not %s", s.block.Cid())
		}
		return nil
	})
}

// A panicError is a panic that became the error of what was being done.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

// safely makes a panic a *panicError: what strangers send must not end the program.
func safely(do func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &panicError{p, debug.Stack()}
		}
	}()
	return do()
}

// notePanic shows the operator where it was that err panicked, if it did.
func (s *Service) notePanic(err error) {
	if p, panicked := errors.AsType[*panicError](err); panicked {
		s.log.Error("panic while retrieving", "panic", p.value, "stack", string(p.stack))
	}
}

// follow reads a CAR whose blocks come in the order of a walk from a root, each once, as from `car-order=dfs&car-dups=n`,
// and gives each to take, verified. Blocks that come again are left out. It returns nil at the end of the DAG, whatever
// follows in the stream. The first block that is not the next of the walk is a lie; a DAG with more than most CIDs is
// refused, unless that is 0. An error of take is returned as it is. The stream is read ahead: the caller closes it
// afterwards, which ends that.
func follow(from io.Reader, at step, blockSize int, most int64, codec Codec, take func(c cid.Cid, data []byte, depth int) error) error {
	reader, err := car.NewBlockReader(from, car.ZeroLengthSectionAsEOF(true),
		car.MaxAllowedHeaderSize(maxCARHeader), car.MaxAllowedSectionSize(uint64(blockSize)+256),
		car.WithTrustedCAR(true)) // readAhead hashes
	if err != nil {
		return &failure{class: Refused, err: fmt.Errorf("reading the header of a CAR: %w", err)}
	}
	stop := make(chan struct{})
	defer close(stop)
	sections := readAhead(reader, stop)
	read := func() (blocks.Block, error) {
		s := <-sections
		<-s.checked
		return s.block, s.err
	}
	rest := newTodo(codec, most, step{canonical(at.cid), at.depth})
	for next, more := rest.pop(); more; next, more = rest.pop() {
		data, inline := codec.Inline(next.cid)
		if !inline {
			block, err := read()
			for err == nil && repeated(rest, block.Cid(), next.cid) {
				block, err = read()
			}
			switch {
			case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
				return &failure{class: Refused, err: fmt.Errorf("the CAR ends before block %s: %w", next.cid, io.ErrUnexpectedEOF)}
			case err != nil:
				return carFailure(err)
			case !canonical(block.Cid()).Equals(next.cid):
				return &failure{class: Refused, lie: true, err: fmt.Errorf("block %s comes where %s should", block.Cid(), next.cid)}
			}
			data = block.RawData()
			if err := take(next.cid, data, next.depth); err != nil {
				return err
			}
		}
		links, err := codec.Links(next.cid, data)
		if err != nil {
			return &RefusedError{Reason: err.Error()}
		}
		if err := rest.push(links, next.depth+1); err != nil {
			return err
		}
	}
	return nil
}

// repeated tells whether a block comes once more that has come already, as with `dups=y`, which a provider may send
// whatever was asked for. It is skipped; a stream of nothing else brings no progress and ends by that.
func repeated(rest *todo, c, want cid.Cid) bool {
	c = canonical(c)
	return rest.visited(c) && !c.Equals(want)
}

// carFailure tells bytes that are wrong from bytes that do not come.
func carFailure(err error) error {
	if f := (*failure)(nil); errors.As(err, &f) {
		return err
	}
	var transport interface{ Timeout() bool }
	if errors.As(err, &transport) || errors.Is(err, errStream) {
		return err
	}
	return &failure{class: Refused, lie: true, err: fmt.Errorf("reading a CAR: %w", err)}
}

// errStream marks errors of the connection, so that they are not taken for wrong bytes.
var errStream = errors.New("the stream broke")

// A streamReader marks them.
type streamReader struct{ io.Reader }

func (s streamReader) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: %w", errStream, err)
	}
	return n, err
}

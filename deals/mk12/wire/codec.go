package wire

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	cbg "github.com/whyrusleeping/cbor-gen"
)

// ErrTooLarge is a message of more than MaxMessage bytes.
var ErrTooLarge = errors.New("message is too large")

// Encode returns the encoding of one message.
func Encode(msg any) ([]byte, error) {
	m, ok := msg.(cbg.CBORMarshaler)
	if !ok {
		return nil, fmt.Errorf("encoding a %T: not a message", msg)
	}
	var buf bytes.Buffer
	if err := m.MarshalCBOR(&buf); err != nil {
		return nil, fmt.Errorf("encoding a %T: %w", msg, err)
	}
	if buf.Len() > MaxMessage {
		return nil, fmt.Errorf("encoding a %T of %d bytes: %w", msg, buf.Len(), ErrTooLarge)
	}
	return buf.Bytes(), nil
}

// Decode reads one message and may read past its end. The reader may belong to a stranger.
func Decode(r io.Reader, msg any) (err error) {
	m, ok := msg.(cbg.CBORUnmarshaler)
	if !ok {
		return fmt.Errorf("decoding a %T: not a message", msg)
	}
	// The decoders are generated, but they call hand-written ones of several modules.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("decoding a %T: panic: %v", msg, p)
		}
	}()
	// Buffered, because the decoders read byte by byte, and lose one where they skip an unknown key unless the
	// reader can step back.
	if err := m.UnmarshalCBOR(bufio.NewReader(&bounded{r: r, left: MaxMessage})); err != nil {
		return fmt.Errorf("decoding a %T: %w", msg, err)
	}
	return nil
}

// bounded fails instead of ending where io.LimitedReader would end: a cut message must not look like a short one.
type bounded struct {
	r    io.Reader
	left int
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, ErrTooLarge
	}
	if len(p) > b.left {
		p = p[:b.left]
	}
	n, err := b.r.Read(p)
	b.left -= n
	return n, err
}

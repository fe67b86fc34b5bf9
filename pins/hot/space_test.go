package hot

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/frostpin/frostpin/pins"
)

func TestFullDisksAreToldFromOtherFailures(t *testing.T) {
	for _, c := range []struct {
		err  error
		full bool
	}{
		{nil, false},
		{errors.New("pinning: something else"), false},
		{syscall.EIO, false},
		{fmt.Errorf("storing 3 blocks: %w", &os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}), true},
		{syscall.EDQUOT, true},
		{errors.New("storing block b in the kubo daemon: block/put: write /data/blocks/x: no space left on device"), true},
	} {
		got := spaced(c.err)
		if errors.Is(got, pins.ErrNoSpace) != c.full || !errors.Is(got, c.err) {
			t.Errorf("%v became %v", c.err, got)
		}
	}
}

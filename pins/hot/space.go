package hot

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/frostpin/frostpin/pins"
)

// spaced marks what a node says that found no room on its disk. Kubo over RPC gives texts only.
func spaced(err error) error {
	if err == nil || errors.Is(err, pins.ErrNoSpace) {
		return err
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) ||
		strings.Contains(err.Error(), "no space left on device") || strings.Contains(err.Error(), "disk quota exceeded") {
		return fmt.Errorf("%w: %w", pins.ErrNoSpace, err)
	}
	return err
}

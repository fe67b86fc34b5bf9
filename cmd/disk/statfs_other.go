//go:build !linux && !darwin

package disk

import "errors"

// Statfs is not known here: nothing is guarded.
func Statfs(string) (Space, error) { return Space{}, errors.ErrUnsupported }

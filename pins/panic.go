package pins

import (
	"fmt"
	"runtime/debug"
)

// A PanicError is a panic that became the error of what was being done. Its text has the stack: it is for operators.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v\n%s", e.Value, e.Stack) }

// Safely makes a panic a *PanicError. Strangers choose the blocks, the code that decodes them is not ours, and a panic in
// a goroutine of its own would end the process.
func Safely(do func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &PanicError{Value: p, Stack: debug.Stack()}
		}
	}()
	return do()
}

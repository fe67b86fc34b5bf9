//go:build race

package e2e_test

// raced is true when the tests run under the race detector; the server is then built with it too.
const raced = true

package main

import (
	"regexp"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// eventually runs a command again and again until it succeeds and prints something that matches.
func eventually(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: eventually REGEXP COMMAND [ARGUMENT...]")
	}
	pattern, err := regexp.Compile(args[0])
	if err != nil {
		ts.Fatalf("%v", err)
	}
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.Now().Add(patience)
	for {
		err := ts.Exec(args[1], args[2:]...)
		if printed := ts.ReadFile("stdout"); err == nil && pattern.MatchString(printed) {
			return
		} else if time.Now().After(deadline) {
			ts.Fatalf("%v never printed %s: %v\n%s", args[1:], args[0], err, printed)
		}
		<-ticker.C
	}
}

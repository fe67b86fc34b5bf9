package main

import (
	"context"
	"errors"
	"os/exec"
	"regexp"
	"testing"
)

func TestWhatWasStartedEndsWhenAMeasurementFails(t *testing.T) {
	b := &bench{}
	var cmd *exec.Cmd
	failed := errors.New("a measurement that fails")
	err := b.measure(t.Context(), func(ctx context.Context) error {
		cmd = exec.CommandContext(context.WithoutCancel(ctx), "sh", "-c", "echo ready; exec sleep 600")
		if _, err := b.launch(cmd, regexp.MustCompile("ready")); err != nil {
			return err
		}
		return failed
	})
	if !errors.Is(err, failed) {
		t.Fatal(err)
	}
	if cmd.ProcessState == nil || cmd.ProcessState.Success() {
		t.Errorf("the program still runs, or ended by itself: %v", cmd.ProcessState)
	}
}

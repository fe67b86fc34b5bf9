package hooks

import (
	"context"
	"errors"
	"iter"
	"time"
)

// OfOneAtOnce is how many hooks of one account are called at the same time.
const OfOneAtOnce = ofOneAtOnce

// A Worker is what a running service remembers between two looks.
type Worker struct{ *crew }

// Worker is a new one.
func (s *Service) Worker() Worker { return Worker{s.newCrew()} }

// Pass works for all hooks until there is nothing to do.
func (k Worker) Pass(ctx context.Context) error {
	defer k.working.Wait()
	k.stale = true
	for {
		if err := k.look(ctx); err != nil {
			return err
		}
		if len(k.busy) == 0 {
			return nil
		}
		k.end(<-k.ended)
	}
}

// Note writes down what it has read.
func (k Worker) Note(ctx context.Context) error { return k.note(ctx) }

// Pass works for all hooks until there is nothing to do.
func (s *Service) Pass(ctx context.Context) error { return s.Worker().Pass(ctx) }

// Sweep forgets what is over at once.
func (s *Service) Sweep(ctx context.Context) error { return errors.Join(s.sweep(ctx), s.empty(ctx)) }

// SetBacklog sets how many deliveries of a hook may wait.
func (s *Service) SetBacklog(n int) { s.backlog = n }

// SweepStatements are those that look for deliveries by their age, with arguments.
func SweepStatements(now time.Time) iter.Seq2[string, []any] {
	return func(yield func(string, []any) bool) {
		for _, step := range byAge(now) {
			if !yield(step.statement, append(step.args, sweepAtOnce)) {
				return
			}
		}
	}
}

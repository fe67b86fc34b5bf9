package retrieval

import (
	"cmp"
	"context"
)

// seat takes a place among the transfers at once, where one is free. Some are left to readers: restores may be many, and
// take long.
func (j *job) seat() bool {
	if !closed(j.reader) {
		select {
		case j.s.restores <- struct{}{}:
			j.behind = true
		default:
			return false
		}
	}
	select {
	case j.s.slots <- struct{}{}:
		return true
	default:
		j.rise()
		return false
	}
}

// queue waits for a place.
func (j *job) queue(ctx context.Context) error {
	if !closed(j.reader) {
		select {
		case j.s.restores <- struct{}{}:
			j.behind = true
		case <-j.reader:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	select {
	case j.s.slots <- struct{}{}:
	case <-ctx.Done():
		j.rise()
		return context.Cause(ctx)
	}
	j.mu.Lock()
	j.moved = j.s.now()
	j.mu.Unlock()
	j.s.mu.Lock()
	j.seated = true
	j.s.mu.Unlock()
	return nil
}

// rise gives back what a restore takes besides a place.
func (j *job) rise() {
	if j.behind {
		j.behind = false
		<-j.s.restores
	}
}

// guarded runs the job with a panic made an error, when there is a place for it.
func (j *job) guarded(ctx context.Context, seated bool) error {
	if !seated {
		if err := j.queue(ctx); err != nil {
			return err
		}
	}
	defer j.rise()
	defer func() { <-j.s.slots }()
	running, cancel := context.WithCancel(ctx)
	defer j.lanes.Wait()
	defer cancel()
	err := safely(func() error { return j.run(running) })
	// What has arrived stays, also when the rest did not come.
	err = cmp.Or(err, j.flush(ctx), j.settle())
	j.s.notePanic(err)
	return err
}

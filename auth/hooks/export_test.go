package hooks

import "context"

// OfOneAtOnce is how many hooks of one account are called at the same time.
const OfOneAtOnce = ofOneAtOnce

// Pass works for all hooks until there is nothing to do.
func (s *Service) Pass(ctx context.Context) error {
	c := s.newCrew()
	defer c.working.Wait()
	c.stale = true
	for {
		if err := c.look(ctx); err != nil {
			return err
		}
		if len(c.busy) == 0 {
			return nil
		}
		c.end(<-c.ended)
	}
}

// Sweep forgets what is over at once.
func (s *Service) Sweep(ctx context.Context) error { return s.sweep(ctx) }

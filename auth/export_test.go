package auth

import (
	"context"
	"time"
)

// WriteUses writes down now when tokens were used last.
func (s *Service) WriteUses(ctx context.Context) error { return s.writeUses(ctx) }

// NoteUse notes that a token was used.
func (s *Service) NoteUse(id string) { s.uses.note(id, time.Now()) }

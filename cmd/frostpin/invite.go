package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/frostpin/frostpin/auth"
)

// An inviteLine is an invite as it is printed: never its code.
type inviteLine struct {
	ID      string     `json:"id"`
	Label   string     `json:"label"`
	Plan    string     `json:"plan"`
	Left    int64      `json:"left"`
	Created time.Time  `json:"created"`
	Expires *time.Time `json:"expires,omitempty"`
	Revoked *time.Time `json:"revoked,omitempty"`
}

func (p *program) inviteCommand() *cobra.Command {
	return group("invite", "Let others make accounts, with the setting signup: invite", p.inviteCreate(), p.inviteList(), p.inviteRevoke())
}

func (p *program) inviteCreate() *cobra.Command {
	var invite auth.Invite
	var expires string
	c := &cobra.Command{
		Use:   "create",
		Short: "Create an invite code and print it, alone and only now",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if invite.Expires, err = parseEnd(expires, p.now()); err != nil {
				return err
			}
			return p.withStore(c, true, func(ctx context.Context, s *store) error {
				code, _, err := s.tokens.CreateInvite(ctx, auth.Operator(), invite)
				if err != nil {
					return explained(err, "", invite.Plan)
				}
				_, err = fmt.Fprintln(p.stdout, code.Reveal())
				return err
			})
		},
	}
	flags := c.Flags()
	flags.StringVar(&invite.Label, "label", "", "Whom it is for")
	flags.StringVar(&invite.Plan, "plan", auth.Public, "The plan of the accounts that it makes")
	flags.Int64Var(&invite.Left, "uses", 1, "How many accounts it makes")
	flags.StringVar(&expires, "expires", "", "When it ends: a time from now such as 168h, a date, or a date and time; never when empty")
	return c
}

func (p *program) inviteList() *cobra.Command {
	return withJSON(&cobra.Command{
		Use:   "list",
		Short: "List invites, without their codes, which nobody can get again",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return p.withStore(c, false, func(ctx context.Context, s *store) error {
				invites, err := s.tokens.Invites(ctx)
				if err != nil {
					return err
				}
				lines := make([]inviteLine, len(invites))
				for i, v := range invites {
					lines[i] = inviteLine{v.ID, v.Label, v.Plan, v.Left, v.Created, optional(v.Expires), optional(v.Revoked)}
				}
				heading := []string{"ID", "LABEL", "PLAN", "LEFT", "CREATED", "EXPIRES", "REVOKED"}
				return printList(c, lines, heading, func(l inviteLine) []string {
					return []string{l.ID, l.Label, l.Plan, fmt.Sprint(l.Left), moment(l.Created), end(l.Expires), end(l.Revoked)}
				})
			})
		},
	})
}

func (p *program) inviteRevoke() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke ID",
		Short: "Let an invite code make no more accounts",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return p.withStore(c, false, func(ctx context.Context, s *store) error {
				err := s.tokens.RevokeInvite(ctx, auth.Operator(), args[0])
				if errors.Is(err, auth.ErrNotFound) {
					return errors.New("there is no invite with this id; `frostpin invite list` shows all")
				}
				return err
			})
		},
	}
}

// parseEnd reads when something ends: a duration from now, a date, or a moment. Nothing is never.
func parseEnd(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		return now.Add(d), nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is not a time such as 720h, 2027-01-31 or 2027-01-31T12:00:00Z", text)
}

// optional is a time that may not be there.
func optional(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// end is such a time as it is printed.
func end(t *time.Time) string {
	if t == nil {
		return ""
	}
	return moment(*t)
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/frostpin/frostpin/server/v1"
)

func (p *program) webhookCommand() *cobra.Command {
	return group("webhook", "Have addresses called when something happens",
		p.webhookAdd(), p.webhookList(), p.webhookRemove(), p.webhookDeliveries(), p.webhookReplay())
}

func (p *program) webhookAdd() *cobra.Command {
	var server serverFlags
	var types []string
	var label string
	c := &cobra.Command{
		Use:   "add URL",
		Short: "Add a webhook and print the secret that signs its calls, alone and only now",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			a, err := p.connect(c, server)
			if err != nil {
				return err
			}
			made, err := a.addWebhook(c.Context(), v1.WebhookRequest{Url: args[0], Types: &types, Label: &label})
			if err != nil {
				return fmt.Errorf("adding a webhook: %w", err)
			}
			if _, err := fmt.Fprintln(p.stdout, made.Secret); err != nil {
				return err
			}
			_, err = fmt.Fprintf(p.stderr, "added webhook %s\n", plain(made.Webhook.Id))
			return err
		},
	}
	server.add(c)
	c.Flags().StringSliceVar(&types, "events", []string{}, "Types of events, such as pin.failed, or deals. for all that begin so (default: all)")
	c.Flags().StringVar(&label, "label", "", "What the webhook is for")
	return c
}

func (p *program) webhookList() *cobra.Command {
	var server serverFlags
	c := withJSON(&cobra.Command{
		Use:   "list",
		Short: "List webhooks, and why one is called no more; never their secrets",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := p.connect(c, server)
			if err != nil {
				return err
			}
			list, err := a.webhooks(c.Context())
			if err != nil {
				return fmt.Errorf("listing webhooks: %w", err)
			}
			heading := []string{"ID", "URL", "EVENTS", "LABEL", "CREATED", "FAILURES", "DISABLED"}
			return printList(c, list, heading, func(h v1.Webhook) []string {
				return []string{h.Id, h.Url, strings.Join(h.Types, ","), h.Label, moment(h.Created), strconv.FormatInt(h.Failures, 10), value(h.Disabled)}
			})
		},
	})
	server.add(c)
	return c
}

func (p *program) webhookRemove() *cobra.Command {
	var server serverFlags
	c := &cobra.Command{
		Use:   "remove ID",
		Short: "Remove a webhook",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			a, err := p.connect(c, server)
			if err != nil {
				return err
			}
			if err := a.removeWebhook(c.Context(), args[0]); err != nil {
				return fmt.Errorf("removing webhook %s: %w", args[0], err)
			}
			return nil
		},
	}
	server.add(c)
	return c
}

func (p *program) webhookDeliveries() *cobra.Command {
	var server serverFlags
	var dead bool
	c := withJSON(&cobra.Command{
		Use:   "deliveries ID",
		Short: "List the calls of a webhook, the newest first, with what has become of them",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			a, err := p.connect(c, server)
			if err != nil {
				return err
			}
			heading := []string{"EVENT", "STATE", "ATTEMPTS", "NEXT", "CODE", "PROBLEM", "MADE"}
			return printStream(c, a.deliveries(c.Context(), args[0], dead), heading, func(d v1.Delivery) []string {
				code := ""
				if d.Code != nil {
					code = strconv.Itoa(int(*d.Code))
				}
				return []string{d.Event, string(d.State), strconv.FormatInt(d.Attempts, 10), moment(value(d.Next)), code, value(d.Problem), moment(d.Made)}
			})
		},
	})
	server.add(c)
	c.Flags().BoolVar(&dead, "dead", false, "Only those that were given up")
	return c
}

func (p *program) webhookReplay() *cobra.Command {
	var server serverFlags
	var after string
	c := &cobra.Command{
		Use:   "replay ID",
		Short: "Have events sent to a webhook again, and one that has ended called again",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			a, err := p.connect(c, server)
			if err != nil {
				return err
			}
			if err := a.replayWebhook(c.Context(), args[0], after); err != nil {
				return fmt.Errorf("replaying to webhook %s: %w", args[0], err)
			}
			return nil
		},
	}
	server.add(c)
	c.Flags().StringVar(&after, "after", "", "The id of the event after which to begin (default: with the oldest that is kept)")
	return c
}

// value is what a member says, or nothing.
func value[T any](v *T) (is T) {
	if v != nil {
		is = *v
	}
	return is
}

// webhookURL is where webhooks are, or what is below one.
func (a *api) webhookURL(below ...string) string {
	names := []string{a.origin, "api/v1/webhooks"}
	for _, segment := range below {
		names = append(names, url.PathEscape(segment))
	}
	return strings.Join(names, "/")
}

// addWebhook is not tried again: an answer that got lost would leave a webhook behind whose secret nobody knows.
func (a *api) addWebhook(ctx context.Context, want v1.WebhookRequest) (made v1.NewWebhook, err error) {
	body, err := json.Marshal(want)
	if err != nil {
		return made, err
	}
	answer, err := a.once(ctx, call{
		method: http.MethodPost, url: a.webhookURL(), header: http.Header{"Content-Type": {"application/json"}}, body: body,
	})
	if err == nil {
		err = decoded(answer, &made)
	}
	return made, err
}

func (a *api) webhooks(ctx context.Context) ([]v1.Webhook, error) {
	answer, err := a.fetch(ctx, call{method: http.MethodGet, url: a.webhookURL()}, nil)
	if err != nil {
		return nil, err
	}
	var list v1.WebhookList
	err = decoded(answer, &list)
	return list.Webhooks, err
}

// removeWebhook succeeds when a try whose answer got lost has removed it.
func (a *api) removeWebhook(ctx context.Context, id string) error {
	tries := 0
	return a.retry(ctx, func(ctx context.Context) error {
		_, err := a.once(ctx, call{method: http.MethodDelete, url: a.webhookURL(id)})
		if tries++; tries > 1 && answered(err, http.StatusNotFound) {
			return nil
		}
		return err
	}, nil)
}

// deliveries reads page after page; an error ends the list.
func (a *api) deliveries(ctx context.Context, id string, dead bool) iter.Seq2[v1.Delivery, error] {
	return func(yield func(v1.Delivery, error) bool) {
		address := a.webhookURL(id, "deliveries")
		for page := address; page != ""; {
			answer, err := a.fetch(ctx, call{method: http.MethodGet, url: page}, nil)
			var list v1.DeliveryList
			if err == nil {
				err = decoded(answer, &list)
			}
			if err != nil {
				yield(v1.Delivery{}, fmt.Errorf("listing the calls of webhook %s: %w", id, err))
				return
			}
			for _, d := range list.Deliveries {
				if (!dead || d.State == v1.Dead) && !yield(d, nil) {
					return
				}
			}
			page = ""
			if list.Next != nil {
				page = address + "?before=" + strconv.FormatInt(*list.Next, 10)
			}
		}
	}
}

func (a *api) replayWebhook(ctx context.Context, id, after string) error {
	query := ""
	if after != "" {
		query = "?" + url.Values{"after": {after}}.Encode()
	}
	_, err := a.fetch(ctx, call{method: http.MethodPost, url: a.webhookURL(id, "replay") + query}, nil)
	return err
}

// decoded reads a JSON answer.
func decoded(answer []byte, into any) error {
	if err := json.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	return nil
}

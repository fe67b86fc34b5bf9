package pins

import (
	"errors"

	"github.com/frostpin/frostpin/spec"
)

// A page ends with the pin whose text reaches pageText, whatever the limit: 1000 pins can have 100 MB of meta, which would
// wait in memory until the slowest of all clients has read them. Who pages goes on with what follows.
const (
	pageText = 4 << 20
	pinText  = 512 // of a pin without its own texts, about
)

// errPageEnds stops the reading of rows.
var errPageEnds = errors.New("the page is full")

// textOf is about how many bytes a pin has in an answer.
func textOf(p *Pin) int {
	n := pinText
	if p.Name != nil {
		n += jsonText(*p.Name)
	}
	for _, origin := range p.Origins {
		n += jsonText(origin)
	}
	for k, v := range p.Meta {
		n += jsonText(k) + jsonText(v)
	}
	return n
}

// jsonText is how many bytes a text has in JSON.
func jsonText(s string) int {
	n := len(`"",`) + len(s)
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ':
			n += len(`\u0000`) - 1
		case c == '"', c == '\\':
			n++
		}
	}
	return n
}

// firstPage returns those of the pins, at least one if there is any, that are one page.
func firstPage(list []Pin) []Pin {
	text := 0
	for i := range list {
		if text += textOf(&list[i]); text >= pageText {
			return list[:i+1]
		}
	}
	return list
}

// ended tells whether a page ends where it has to, so that others may follow.
func (p *Page) ended(q spec.Query) bool {
	if len(p.Pins) >= q.Limit {
		return true
	}
	text := 0
	for i := range p.Pins {
		text += textOf(&p.Pins[i])
	}
	return text >= pageText
}

package sp

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// A journal is a file of deals, one JSON line each; of two lines about one deal the later holds.
type journal struct {
	path string
	file *os.File // nil until the first compaction, and after an error
}

// openJournal reads every whole line. A torn one at the end was never acknowledged. Compact before appending.
func openJournal(path string, each func(*Deal) error) (*journal, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the journal: %w", err)
	}
	defer file.Close()
	if err := readLines(file, each); err != nil {
		return nil, fmt.Errorf("reading the journal: %w", err)
	}
	return &journal{path: path}, nil
}

func readLines(file io.Reader, each func(*Deal) error) error {
	r := bufio.NewReader(file)
	for n := 1; ; n++ {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		d := &Deal{}
		if err := json.Unmarshal(line, d); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if err := each(d); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
}

// append writes and flushes lines. After an error the file may end in a torn line, so nothing more is written.
func (j *journal) append(deals ...*Deal) error {
	if j.file == nil {
		return os.ErrClosed
	}
	lines, err := encodeLines(deals)
	if err != nil {
		return err
	}
	if _, err = j.file.Write(lines); err == nil {
		err = j.file.Sync()
	}
	if err != nil {
		j.close()
		return fmt.Errorf("writing the journal: %w", err)
	}
	return nil
}

// compact leaves one line per deal, and no torn one.
func (j *journal) compact(deals []*Deal) error {
	lines, err := encodeLines(deals)
	if err != nil {
		return err
	}
	if err := writeFile(j.path, lines); err != nil {
		return fmt.Errorf("compacting the journal: %w", err)
	}
	file, err := os.OpenFile(j.path, os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("opening the journal: %w", err)
	}
	j.close()
	j.file = file
	return nil
}

func (j *journal) close() {
	if j.file != nil {
		j.file.Close()
		j.file = nil
	}
}

func encodeLines(deals []*Deal) ([]byte, error) {
	var lines bytes.Buffer
	enc := json.NewEncoder(&lines)
	for _, d := range deals {
		if err := enc.Encode(d); err != nil {
			return nil, fmt.Errorf("encoding deal %s: %w", d.UUID, err)
		}
	}
	return lines.Bytes(), nil
}

// writeFile replaces a file durably: after a crash it is the old one or the new one.
func writeFile(path string, data []byte) error {
	temp, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("creating a file: %w", err)
	}
	defer os.RemoveAll(temp.Name()) // gone already if all went well
	if _, err = temp.Write(data); err == nil {
		err = temp.Sync()
	}
	if closed := temp.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", filepath.Base(path), err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

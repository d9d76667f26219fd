// Package agent has what the client programs in Go share: commands in, answers out, as
// python/agent.py says.
package agent

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"time"
)

const Patience = 60 * time.Second

// Record is one that is sent, or was received.
type Record struct {
	Partition int          `json:"partition"`
	Offset    int64        `json:"offset"`
	Timestamp int64        `json:"timestamp"`
	Key       *string      `json:"key"`
	Value     *string      `json:"value"`
	Headers   [][2]*string `json:"headers"`
}

// Command is any of the commands; each has some of the fields.
type Command struct {
	Do               string            `json:"do"`
	Topic            string            `json:"topic"`
	Group            string            `json:"group"`
	Records          []Record          `json:"records"`
	Codec            string            `json:"codec"`
	Idempotent       *bool             `json:"idempotent"`
	Count            int               `json:"count"`
	PauseMs          float64           `json:"pause_ms"`
	Begin            any               `json:"begin"`
	Partition        int32             `json:"partition"`
	Partitions       int32             `json:"partitions"`
	SessionTimeoutMs int               `json:"session_timeout_ms"`
	Config           map[string]string `json:"config"`
	Names            []string          `json:"names"`
}

// Pause is how long to wait between two records of a stream.
func (c Command) Pause() time.Duration {
	return time.Duration(c.PauseMs * float64(time.Millisecond))
}

// Answer is a line of the output.
type Answer map[string]any

// ErrUnsupported is returned for what the client does not have.
var ErrUnsupported = errors.New("not in this client")

var output sync.Mutex

// Say prints an event or an answer.
func Say(answer Answer) {
	line, err := json.Marshal(answer)
	if err != nil {
		panic(err)
	}
	output.Lock()
	defer output.Unlock()
	fmt.Println(string(line))
}

// Handler does one command. `away` is closed when the next command, or the end, has come.
type Handler func(command Command, away <-chan struct{}) (Answer, error)

// Version is that of a module this program was built with.
func Version(module string) string {
	info, _ := debug.ReadBuildInfo()
	for _, each := range info.Deps {
		if each.Path == module {
			return each.Version
		}
	}
	return "?"
}

// Main answers commands until the standard input ends.
func Main(handle Handler) {
	type waiting struct {
		command Command
		away    chan struct{}
	}
	commands := make(chan waiting, 16)
	go func() {
		lines := bufio.NewScanner(os.Stdin)
		lines.Buffer(nil, 16<<20)
		var last chan struct{}
		for lines.Scan() {
			if last != nil {
				close(last)
			}
			next := waiting{away: make(chan struct{})}
			if err := json.Unmarshal(lines.Bytes(), &next.command); err != nil {
				panic(err)
			}
			last = next.away
			commands <- next
		}
		if last != nil {
			close(last)
		}
		close(commands)
	}()
	for next := range commands {
		answer, err := handle(next.command, next.away)
		if errors.Is(err, ErrUnsupported) {
			answer = Answer{"unsupported": err.Error()}
		} else if err != nil {
			fmt.Fprintln(os.Stderr, next.command.Do, err)
			answer = Answer{"error": err.Error()}
		} else if answer == nil {
			answer = Answer{}
		}
		Say(answer)
	}
}

// Bytes is a text as bytes; null stays null.
func Bytes(text *string) []byte {
	if text == nil {
		return nil
	}
	return append(make([]byte, 0, 1), *text...)
}

// Text is bytes as a text; null stays null.
func Text(data []byte) *string {
	if data == nil {
		return nil
	}
	text := string(data)
	return &text
}

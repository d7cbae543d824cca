package demo

import (
	"context"
	"fmt"
	"net"
	"net/textproto"
	"strings"
	"time"
)

const (
	// recipientsMax is how many recipients one transaction has (RFC 5321, section
	// 4.5.3.1.8 guarantees 100).
	recipientsMax = 100
	lmtpTimeout   = 20 * time.Second
	// The 4xx of a slot that was busy for a moment is tried again.
	deliveryTries = 5
)

// deliverAll sends each user a letter of his own and all of them one together,
// over one node after another. It returns the number of deliveries.
func deliverAll(ctx context.Context, nodes []Node, to []string) (int, error) {
	delivered := 0
	for i, u := range to {
		n := nodes[i%len(nodes)]
		text := fmt.Sprintf("Hello %s,\r\n\r\nthis message came in over LMTP at node %s. Before the sender was told\r\n"+
			"that it is safe, it was on the disks that `ack` asks for.\r\n", u, n.Name)
		if err := deliver(ctx, n, message("Welcome to mailnode", u, text), []string{u}); err != nil {
			return delivered, err
		}
		delivered++
	}
	for len(to) > 0 {
		some := to[:min(len(to), recipientsMax)]
		to = to[len(some):]
		text := "One transaction, many recipients: each slot stores the body once.\r\n"
		if err := deliver(ctx, nodes[0], message("To everybody", "everybody@example.test", text), some); err != nil {
			return delivered, err
		}
		delivered += len(some)
	}
	return delivered, nil
}

// message makes a letter (RFC 5322). Its date is shown and nothing else.
func message(subject, to, text string) string {
	now := time.Now()
	return fmt.Sprintf("From: mailnode demo <demo@example.test>\r\nTo: %s\r\nSubject: %s\r\nDate: %s\r\nMessage-ID: <%d@demo.example.test>\r\n"+
		"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n%s", to, subject, now.Format(time.RFC1123Z), now.UnixNano(), text)
}

// deliver sends one message; recipients that were put off are tried again.
func deliver(ctx context.Context, n Node, text string, to []string) error {
	for try := 1; ; try++ {
		left, err := transaction(ctx, n.LMTP, text, to)
		if err == nil && len(left) == 0 {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("%d recipients were put off", len(left))
			to = left
		}
		if _, for5xx := err.(permanentError); for5xx || try == deliveryTries || ctx.Err() != nil {
			return fmt.Errorf("deliver to %s over LMTP at %q: %w", strings.Join(to, ", "), n.LMTP, err)
		}
		timer := time.NewTimer(time.Duration(try) * pause * 5)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// permanentError is a 5xx, which no repetition changes.
type permanentError struct{ error }

func judged(err error) error {
	if e, ok := err.(*textproto.Error); ok && e.Code/100 == 5 {
		return permanentError{err}
	}
	return err
}

// transaction runs one LMTP session (RFC 2033) and returns the recipients that got
// a 4xx. A 5xx for anybody is the error.
func transaction(ctx context.Context, address, text string, to []string) (left []string, err error) {
	dialer := net.Dialer{Timeout: lmtpTimeout}
	raw, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return to, err
	}
	defer raw.Close()
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	if err := raw.SetDeadline(time.Now().Add(lmtpTimeout)); err != nil {
		return to, err
	}
	c := textproto.NewConn(raw)
	say := func(want int, line string) error { // "" only listens
		if line != "" {
			if err := c.PrintfLine("%s", line); err != nil {
				return err
			}
		}
		_, _, err := c.ReadResponse(want)
		return judged(err)
	}
	for _, step := range []struct {
		want int
		line string
	}{{220, ""}, {250, "LHLO demo.example.test"}, {250, "MAIL FROM:<demo@example.test>"}} {
		if err := say(step.want, step.line); err != nil {
			return to, err
		}
	}
	var accepted []string
	for _, u := range to {
		err := say(25, "RCPT TO:<"+u+">")
		if _, permanent := err.(permanentError); permanent {
			return to, err
		} else if _, answered := err.(*textproto.Error); answered {
			left = append(left, u)
		} else if err != nil {
			return to, err
		} else {
			accepted = append(accepted, u)
		}
	}
	if len(accepted) == 0 {
		return left, nil
	}
	if err := say(354, "DATA"); err != nil {
		return to, err
	}
	w := c.DotWriter()
	if _, err := w.Write([]byte(text)); err != nil {
		return to, err
	}
	if err := w.Close(); err != nil {
		return to, err
	}
	// RFC 2033, section 4.2: one reply per accepted recipient, in their order.
	for i, u := range accepted {
		err := say(250, "")
		if _, permanent := err.(permanentError); permanent {
			return append(left, accepted[i:]...), err
		} else if _, answered := err.(*textproto.Error); answered {
			left = append(left, u)
		} else if err != nil {
			return append(left, accepted[i:]...), err
		}
	}
	_ = say(221, "QUIT") // all is said
	return left, nil
}

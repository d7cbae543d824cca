package imapd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"mailnode/storage"
)

// failingLogin answers each user with an error of his own: "u3" has errs[3].
type failingLogin struct{ errs []error }

func (f failingLogin) Login(_ context.Context, user string, _ storage.Attempt) (Grant, error) {
	var i int
	if _, err := fmt.Sscanf(user, "u%d", &i); err != nil {
		return Grant{}, err
	}
	return Grant{}, f.errs[i]
}

// Each kind of error at a login, at the master and through a front node: only a
// refused password is a failed one, and nothing of ours makes a client believe
// that its user or his mail is gone (LAWS §7.4; RFC 5530, section 3).
func TestLaw07LoginFailsOnlyForTheUsersTrouble(t *testing.T) {
	of := func(kinds ...error) error {
		err := error(errors.New("log in"))
		for _, k := range kinds {
			err = storage.Errorf(k, "%w", err)
		}
		return err
	}
	cases := []struct {
		err   error
		here  string
		front string // "" is as here
	}{
		{of(storage.ErrAuth), "NO [AUTHENTICATIONFAILED]", ""},
		{of(storage.ErrAuth, storage.ErrUnavailable), "NO [UNAVAILABLE]", ""},
		{of(storage.ErrUnavailable, storage.ErrAuth), "NO [UNAVAILABLE]", ""},
		{of(storage.ErrNotFound), "NO [UNAVAILABLE]", ""},
		{of(storage.ErrNotFound, storage.ErrUnavailable), "NO [UNAVAILABLE]", ""},
		{of(storage.ErrUnavailable), "NO [UNAVAILABLE]", ""},
		{of(storage.ErrDiskFull), "NO [UNAVAILABLE]", ""},
		{of(storage.ErrCorrupt), "NO [UNAVAILABLE]", ""},
		{of(storage.ErrDiverged), "NO [UNAVAILABLE]", ""},
		{of(storage.ErrLimit), "NO [LIMIT]", ""},
		{of(storage.ErrNotMaster), "BYE [UNAVAILABLE]", "NO [UNAVAILABLE]"},
		{of(storage.ErrNotMaster, storage.ErrAuth), "BYE [UNAVAILABLE]", "NO [UNAVAILABLE]"},
		{context.DeadlineExceeded, "NO [UNAVAILABLE]", ""},
		{io.ErrUnexpectedEOF, "NO [SERVERBUG]", "NO [UNAVAILABLE]"},
	}
	var errs []error
	for _, c := range cases {
		errs = append(errs, c.err)
	}
	b := newBench(t, func(c *Config) { c.Login = failingLogin{errs} })
	front := b.front(ListenerOptions{PlainLogin: true})
	for i, tt := range cases {
		for at, want := range map[string]string{b.plain: tt.here, front: tt.front} {
			if want == "" {
				want = tt.here
			}
			c := dial(t, at)
			c.line()
			c.send(fmt.Sprintf("a LOGIN u%d pw\r\n", i))
			if got := c.line(); !strings.Contains(got, want) {
				t.Errorf("%v (front: %t): %q, want %s", tt.err, at == front, got, want)
			}
		}
	}
}

package admin

import (
	"context"
	"errors"
	"net/http"

	"mailnode/raftfsm/cluster"
	"mailnode/storage"
)

// Error is a refusal as operators get it: what is wrong, the exit code, and the
// next command to type ("" when there is none).
type Error struct {
	Text string `json:"error"`
	Exit int    `json:"exit"`
	Next string `json:"next,omitempty"`

	status int // HTTP, 0: by Exit
}

func (e *Error) Error() string { return e.Text }

// reply maps what a Backend said to an HTTP status and the refusal in JSON. It
// is the only place where error kinds become replies of this protocol.
func reply(err error) (int, Error) {
	var own *Error
	if errors.As(err, &own) {
		answer := *own
		answer.Text = err.Error()
		if answer.status == 0 {
			answer.status = statusOf(answer.Exit)
		}
		return answer.status, answer
	}
	if status, answer, ok := ownershipReply(err); ok {
		return status, answer
	}
	for _, k := range kinds() {
		if errors.Is(err, k.kind) {
			return k.status, Error{Text: err.Error(), Exit: k.exit, Next: k.next}
		}
	}
	return http.StatusInternalServerError, Error{Text: err.Error(), Exit: ExitFailed}
}

// ownershipReply maps the refusals of the state machine.
func ownershipReply(err error) (int, Error, bool) {
	var (
		stale    cluster.ErrStale
		closed   cluster.ErrClosed
		notFound cluster.ErrNotFound
		exists   cluster.ErrExists
		invalid  cluster.ErrInvalid
	)
	text := err.Error()
	switch {
	case errors.Is(err, cluster.ErrUnknownOutcome):
		return http.StatusGatewayTimeout, Error{Text: text + "; ask another node", Exit: ExitFailed, Next: "mailnode failover list"}, true
	case errors.As(err, &stale):
		return http.StatusConflict, Error{Text: text, Exit: ExitRefused, Next: "mailnode failover list"}, true
	case errors.As(err, &closed):
		return http.StatusConflict, Error{Text: text, Exit: ExitRefused, Next: "mailnode failover list"}, true
	case errors.As(err, &notFound):
		return http.StatusNotFound, Error{Text: text, Exit: ExitUsage, Next: "mailnode status"}, true
	case errors.As(err, &exists):
		return http.StatusConflict, Error{Text: text, Exit: ExitFailed, Next: "mailnode cluster members"}, true
	case errors.As(err, &invalid):
		return http.StatusConflict, Error{Text: text, Exit: ExitRefused}, true
	case errors.Is(err, cluster.ErrCorrupt), errors.Is(err, cluster.ErrNewer):
		return http.StatusInternalServerError, Error{Text: text, Exit: ExitFailed, Next: "mailnode status"}, true
	}
	if err != nil && !errors.As(err, new(cluster.ErrUnseen)) { // that one is done: orders of package node say so
		switch cluster.OutcomeOf(err) {
		case cluster.NotDone:
			return http.StatusServiceUnavailable, Error{Text: text, Exit: ExitRefused, Next: "mailnode status"}, true
		case cluster.Halted:
			return http.StatusServiceUnavailable, Error{Text: text, Exit: ExitFailed, Next: "mailnode status"}, true
		}
	}
	return 0, Error{}, false
}

type kindReply struct {
	kind   error
	status int
	exit   int
	next   string
}

func kinds() []kindReply {
	return []kindReply{
		// Before ErrNotFound: an error of both kinds means that we don't know.
		{storage.ErrNotMaster, http.StatusServiceUnavailable, ExitFailed, "mailnode status"},
		{storage.ErrUnavailable, http.StatusServiceUnavailable, ExitFailed, "mailnode status"},
		{storage.ErrNotFound, http.StatusNotFound, ExitUsage, ""},
		{storage.ErrInvalid, http.StatusBadRequest, ExitUsage, ""},
		{storage.ErrExists, http.StatusConflict, ExitFailed, ""},
		{storage.ErrDiskFull, http.StatusInsufficientStorage, ExitFailed, "mailnode status"},
		{storage.ErrLimit, http.StatusConflict, ExitFailed, ""},
		{storage.ErrTooBig, http.StatusRequestEntityTooLarge, ExitFailed, ""},
		{storage.ErrOverQuota, http.StatusConflict, ExitFailed, ""},
		{storage.ErrAuth, http.StatusForbidden, ExitRefused, ""},
		{storage.ErrCorrupt, http.StatusInternalServerError, ExitFailed, "mailnode status"},
		{storage.ErrDiverged, http.StatusInternalServerError, ExitFailed, "mailnode status"},
		{context.DeadlineExceeded, http.StatusGatewayTimeout, ExitFailed, "mailnode status"},
		{context.Canceled, http.StatusServiceUnavailable, ExitFailed, "mailnode status"},
	}
}

func statusOf(exit int) int {
	switch exit {
	case ExitUsage:
		return http.StatusBadRequest
	case ExitNothing, ExitRefused:
		return http.StatusConflict
	}
	return http.StatusInternalServerError
}

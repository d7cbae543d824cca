package lmtpd

import (
	"errors"
	"syscall"

	"github.com/emersion/go-smtp"

	"mailnode/storage"
)

// reply is the one place where an error becomes an LMTP reply (RFC 3463 codes).
// What is not known to be the sender's or the recipient's trouble is ours, and
// ours is always temporary: what a 5xx bounces is gone (law 7).
func reply(err error) *smtp.SMTPError {
	switch {
	case err == nil:
		return &smtp.SMTPError{Code: 250, EnhancedCode: smtp.EnhancedCode{2, 1, 5}, Message: "delivered"}
	case errors.Is(err, storage.ErrNotMaster), errors.Is(err, storage.ErrUnavailable):
		// Before ErrNotFound: an error of both kinds means that we don't know.
		return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0}, Message: "mailbox not available now, try again later"}
	case errors.Is(err, storage.ErrDiskFull), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return &smtp.SMTPError{Code: 452, EnhancedCode: smtp.EnhancedCode{4, 3, 1}, Message: "disk full, try again later"}
	case errors.Is(err, storage.ErrOverQuota):
		return &smtp.SMTPError{Code: 452, EnhancedCode: smtp.EnhancedCode{4, 2, 2}, Message: "mailbox over quota"}
	case errors.Is(err, storage.ErrNotFound):
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such user"}
	case errors.Is(err, storage.ErrTooBig):
		return &smtp.SMTPError{Code: 552, EnhancedCode: smtp.EnhancedCode{5, 3, 4}, Message: "message too big"}
	default:
		return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0}, Message: "internal trouble, try again later"}
	}
}

// dataReply is reply for a recipient whose RCPT was accepted: whatever became of
// that user, the mail is not bounced any more (law 7; RFC 2033, section 4.2, gives
// each RCPT an answer of its own). A user who is gone gets the 550 at the next RCPT.
// A 5xx about the message itself, which the client was told before it began to
// send (SIZE, RFC 1870), is messageReply's.
func dataReply(err error) *smtp.SMTPError {
	r := reply(err)
	if r.Code/100 == 5 {
		return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0}, Message: "mailbox not available now, try again later"}
	}
	return r
}

// messageReply is reply for a message that was not received: only its own size
// is the sender's trouble.
func messageReply(err error) *smtp.SMTPError {
	if errors.Is(err, storage.ErrTooBig) {
		return reply(storage.ErrTooBig)
	}
	return dataReply(err)
}

// ourTrouble reports whether an operator may want to know.
func ourTrouble(r *smtp.SMTPError) bool {
	return r.Code/100 == 4 && r.EnhancedCode[1] == 3
}

func badRecipient() *smtp.SMTPError {
	return &smtp.SMTPError{Code: 553, EnhancedCode: smtp.EnhancedCode{5, 1, 3}, Message: "recipient address not valid"}
}

func badSender() *smtp.SMTPError {
	return &smtp.SMTPError{Code: 553, EnhancedCode: smtp.EnhancedCode{5, 1, 7}, Message: "sender address not valid"}
}

func nestedMail() error {
	return &smtp.SMTPError{Code: 503, EnhancedCode: smtp.EnhancedCode{5, 5, 1}, Message: "a mail transaction is open already"}
}

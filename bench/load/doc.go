// Package load is the clients of the benchmark. They ask as the clients on a node do (client-go's media types, HTTP/2 where the
// server has it, compression if the server likes to, one connection each) and decode as little as can be, so that they are not what
// is measured. They never retry: an answer that is not the one that was expected ends the measurement.
package load

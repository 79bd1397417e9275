"""The control socket: a Varlink service on trio, and its stdlib client. Imports nothing.

io.helperd.varlink   what can be asked: the text that the service also gives out by introspection
interface            reads such a text; checks parameters against it. Pure
call                 one message each way, and the errors. Pure
peer                 who is at the other end, and who may change things
api                  what the daemon does for this room
methods              one function per method
server               connections, and their bounds
client               the other side, standard library only
"""

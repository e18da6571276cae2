"""One small file a stage; importing one loads only what that stage needs."""

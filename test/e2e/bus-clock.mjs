// Loaded before a program (`--import`): its clock goes wrong by as many milliseconds as CLOCK_JUMP_MS says.
const jump = Number(process.env.CLOCK_JUMP_MS);
const now = Date.now.bind(Date);
Date.now = () => now() + jump;

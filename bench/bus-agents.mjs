export const run = async () => [];
